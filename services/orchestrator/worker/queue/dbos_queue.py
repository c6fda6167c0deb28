"""The queue of segments, kept by DBOS, of which it uses queueing by group, recovery, and nothing else.

DBOS's rows say which segment waits and which host has it. All that a segment does is in the orchestrator's own rows:
a segment that runs again continues from there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dbos import DBOS, DBOSConfig, Queue, SetEnqueueOptions, SetWorkflowID, _workflow_commands
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.common.db.database import POSTGRES_SESSION
from services.common.db.failures import unavailable
from services.orchestrator.worker.queue.serializer import JsonSerializer

_APPLICATION = "coxswain-orchestrator"
# Constant: any release may continue what another began. DBOS's default, a hash of the code, would strand segments.
_APPLICATION_VERSION = "1"
_SCHEMA = "orchestrator_durable"
_QUEUE = "segments"
_WORKFLOW = "segment"
_FINISHED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_PAGE = 500
_HOUSEKEEPING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of an execution, from a wake to its end or its next rest."""

    execution_id: str
    generation: int

    @property
    def id(self) -> str:
        """Its id in the queue: submitting it twice is submitting it once."""
        return f"{self.execution_id}.{self.generation}"


class SegmentState(StrEnum):
    """Where a segment is."""

    UNKNOWN = "UNKNOWN"
    """The queue does not have it."""
    WAITING = "WAITING"
    HELD = "HELD"
    """A host has taken it, alive or not."""
    FINISHED = "FINISHED"


Run = Callable[[Segment], Coroutine[Any, Any, None]]


class SegmentQueue:
    """Gives segments to hosts, each to one. There can be one queue in a process.

    Every method raises Unavailable while the database does not answer.
    """

    def __init__(self, url: str, executor_id: str, *, slots: int, group_limit: int, poll_seconds: float) -> None:
        """`url` names the queue's database; a host takes `slots` segments at a time, all hosts together take
        `group_limit` of one group.

        `executor_id` has to be new with each start of the process: a start with a known id would take back what the
        earlier process holds while it may still be at work.
        """
        self.executor_id = executor_id
        self._slots = slots
        self._group_limit = group_limit
        self._poll_seconds = poll_seconds
        self._engine = _sync_engine(url)
        self._dbos: DBOS | None = None
        self._queue: Queue | None = None
        self._workflow: Callable[[str, int], Coroutine[Any, Any, None]] | None = None

    async def launch(self, run: Run) -> None:
        """Begin to take segments and give them to `run`, on the running loop. Upgrades DBOS's tables first.

        What `run` raises ends its segment for good.
        """
        config: DBOSConfig = {
            "name": _APPLICATION,
            "system_database_url": self._engine.url.render_as_string(hide_password=False),
            "system_database_engine": self._engine,
            "dbos_system_schema": _SCHEMA,
            "executor_id": self.executor_id,
            "application_version": _APPLICATION_VERSION,
            "serializer": JsonSerializer(),
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": 30.0,
            "scheduler_polling_interval_sec": 300.0,
            "enable_otlp": False,
            "log_level": "WARNING",
        }
        self._dbos = DBOS(config=config)
        _hand_on_logs()
        # Each second DBOS looks for delays and deadlines, of which segments have none.
        _workflow_commands._BACKGROUND_JOBS_INTERVAL_SEC = _HOUSEKEEPING_SECONDS  # noqa: SLF001

        async def segment(execution_id: str, generation: int) -> None:
            # In a context of its own: within DBOS's, every call of it would become a step that it records.
            await asyncio.create_task(run(Segment(execution_id, generation)), context=Context())

        self._workflow = DBOS.workflow(name=_WORKFLOW)(segment)
        # On the loop's own thread, as segments run on the loop that launches: it blocks, but nothing else runs yet.
        DBOS.launch()
        self._queue = await DBOS.register_queue_async(
            _QUEUE,
            worker_concurrency=self._slots,
            partition_concurrency=self._group_limit,
            partition_worker_concurrency=min(self._slots, self._group_limit),
            polling_interval_sec=self._poll_seconds,
            on_conflict="always_update",
        )

    async def submit(self, segment: Segment, *, group_id: str, priority: int) -> None:
        """Let some host take a segment; lower `priority` first within the group. Repeating it changes nothing."""
        assert self._queue is not None
        assert self._workflow is not None
        options = SetEnqueueOptions(priority=priority + 1, queue_partition_key=group_id)
        with _outages(), SetWorkflowID(segment.id), options:
            await self._queue.enqueue_async(self._workflow, segment.execution_id, segment.generation)

    async def recover(self, executor_ids: Collection[str]) -> None:
        """Send what dead hosts hold back to the queue. Doing so twice, or from two hosts, changes nothing."""
        if executor_ids:
            with _outages():
                await asyncio.to_thread(DBOS._recover_pending_workflows, list(executor_ids))  # noqa: SLF001

    async def holders(self) -> set[str]:
        """Return the executor ids of hosts that hold segments, dead ones among them."""
        with _outages():
            held = await DBOS.list_workflows_async(status="PENDING", load_input=False, load_output=False)
        return {status.executor_id for status in held if status.executor_id}

    async def states(self, segments: Iterable[Segment]) -> dict[Segment, SegmentState]:
        """Return where some segments are."""
        by_id = {segment.id: segment for segment in segments}
        states = dict.fromkeys(by_id.values(), SegmentState.UNKNOWN)
        if by_id:
            with _outages():
                found = await DBOS.list_workflows_async(workflow_ids=list(by_id), load_input=False, load_output=False)
            for status in found:
                states[by_id[status.workflow_id]] = _state(str(status.status))
        return states

    async def holds(self, segment: Segment) -> bool:
        """Return whether this process still is the one that holds a segment."""
        with _outages():
            status = await DBOS.get_workflow_status_async(segment.id)
        return status is not None and status.status == "PENDING" and status.executor_id == self.executor_id

    async def forget_finished(self, before: float) -> int:
        """Remove segments that were submitted before a moment (seconds since 1970) and have ended; return how many."""
        with _outages():
            ended = await DBOS.list_workflows_async(
                status=_FINISHED,
                end_time=_iso(before),
                limit=_PAGE,
                load_input=False,
                load_output=False,
            )
            if ended:
                await DBOS.delete_workflows_async([status.workflow_id for status in ended])
        return len(ended)

    def stop_taking(self) -> None:
        """Take no more segments. Running segments continue; the process has to exit without closing the queue."""
        if self._dbos is not None:
            for stop in self._dbos.background_thread_stop_events:
                stop.set()


@contextlib.contextmanager
def _outages() -> Iterator[None]:
    """Raise Unavailable for what SQLAlchemy raises when the database does not answer."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, OSError) as error:
        raise unavailable() from error


def _state(status: str) -> SegmentState:
    if status in _FINISHED:
        return SegmentState.FINISHED
    return SegmentState.HELD if status == "PENDING" else SegmentState.WAITING


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _sync_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed.set(drivername="sqlite"))
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={"options": " ".join(f"-c {name}={value}" for name, value in POSTGRES_SESSION.items())},
        pool_size=5,
        max_overflow=5,
        pool_pre_ping=True,
    )


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _hand_on_logs() -> None:
    """Send DBOS's log lines where all others go; its own handler writes them to standard error."""
    logger = logging.getLogger("dbos")
    logger.handlers.clear()
    logger.propagate = True
