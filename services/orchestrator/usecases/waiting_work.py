"""Counts what waits and runs, and who is there to do it, in the whole installation."""

import math
from datetime import datetime

from prometheus_client import Gauge

from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.execution import TERMINAL_STATES, ExecutionState
from services.orchestrator.domain.question import QuestionKind
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.repositories.admission import AdmissionRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.repositories.webhook_work import read_webhook_lag
from services.orchestrator.usecases.webhook_intake import MOST_PENDING

_UNFINISHED = Gauge(
    "coxswain_executions",
    "Executions that have not ended, of the whole installation, by state; QUEUED ones wait for a worker host.",
    ("state",),
)
_QUEUE_DEPTH = Gauge(
    "coxswain_queue_depth", "Executions of the whole installation that a worker host could take now, or continue."
)
_QUEUE_OLDEST = Gauge(
    "coxswain_queue_oldest_seconds",
    "Seconds since the start of the oldest of these that no host has begun and that need not wait for a turn; else 0.",
)
_QUEUE_GROUPS = Gauge("coxswain_queue_groups", "Groups that these executions belong to.")
_HOSTS = Gauge("coxswain_worker_hosts", "Worker hosts of the whole installation that are alive.")
_OPEN_QUESTIONS = Gauge(
    "coxswain_questions_open",
    "Questions that wait for a person's answer, of the whole installation, by kind.",
    ("kind",),
)
_WEBHOOKS_OLDEST = Gauge(
    "coxswain_webhook_oldest_seconds",
    "Age of the oldest event that waits to be posted to a webhook, of the whole installation: `untried` of those that "
    "could be and have not been once, `undelivered` of all; 0 without any.",
    ("waiting",),
)
_STATES = sorted(set(ExecutionState) - TERMINAL_STATES)
_ALL = (
    _QUEUE_DEPTH,
    _QUEUE_OLDEST,
    _QUEUE_GROUPS,
    _HOSTS,
    *(_UNFINISHED.labels(state) for state in _STATES),
    *(_OPEN_QUESTIONS.labels(kind) for kind in QuestionKind),
    *(_WEBHOOKS_OLDEST.labels(waiting) for waiting in ("untried", "undelivered")),
)


class WaitingWork:
    """Sets the metrics that are of the installation rather than of a process: each replica tells the same."""

    def __init__(self, database: Database, leases: LeaseStore) -> None:
        self._database = database
        self._leases = leases

    async def count(self) -> None:
        """Count anew. When that fails all is NaN: nobody may take old numbers for those of now."""
        try:
            await self._count()
        except Exception:
            for gauge in _ALL:
                gauge.set(math.nan)
            raise

    async def _count(self) -> None:
        async with self._database.read() as connection:
            unfinished = await ExecutionRepository(connection).count(_STATES)
            asked = await QuestionRepository(connection).count_open()
            queue = await AdmissionRepository(connection).queue_length()
        webhooks = await read_webhook_lag(self._database, MOST_PENDING)
        _WEBHOOKS_OLDEST.labels("untried").set(_age(webhooks.untried_since))
        _WEBHOOKS_OLDEST.labels("undelivered").set(_age(webhooks.undelivered_since))
        for state in _STATES:
            _UNFINISHED.labels(state).set(unfinished.get(state, 0))
        for kind in QuestionKind:
            _OPEN_QUESTIONS.labels(kind).set(asked.get(kind, 0))
        _QUEUE_DEPTH.set(queue.length)
        _QUEUE_GROUPS.set(queue.groups)
        _QUEUE_OLDEST.set(_age(queue.oldest_start))
        _HOSTS.set(len(await self._leases.alive()))


def _age(since: datetime | None) -> float:
    return 0.0 if since is None else max(0.0, (utc_now() - since).total_seconds())
