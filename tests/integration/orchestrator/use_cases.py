"""The use cases on a real database; auth and models are played."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from typing import Any

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey
from services.common.errors import NotFound, PermissionDenied, Unavailable
from services.common.identity.group_limits import NO_GROUP_LIMITS, GroupLimits
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.ids import new_id
from services.orchestrator.domain.crew import AgentSpec, Crew, CrewSpec, KnowledgeMemory, TaskSpec
from services.orchestrator.domain.execution import Execution, ExecutionIdentity, OnCredentialExpiry, Start
from services.orchestrator.domain.tool_source import ToolSource
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.events import EventReader
from services.orchestrator.tables import executions
from services.orchestrator.usecases.batch_runner import BatchRunner
from services.orchestrator.usecases.batches import Batches
from services.orchestrator.usecases.crew_validation import CrewValidation
from services.orchestrator.usecases.event_feed import EventFeed
from services.orchestrator.usecases.execution_continuer import ExecutionContinuer
from services.orchestrator.usecases.execution_ender import ExecutionEnder
from services.orchestrator.usecases.execution_starter import ExecutionStarter
from services.orchestrator.usecases.executions import Executions
from services.orchestrator.usecases.housekeeping import Housekeeping
from services.orchestrator.usecases.model_needs import Capability
from services.orchestrator.usecases.overlap import Overlap
from services.orchestrator.usecases.ports import Grant, KnownMemories, ModelInfo, UnavailableTools
from services.orchestrator.usecases.question_deadlines import QuestionDeadlines
from services.orchestrator.usecases.question_settler import QuestionSettler
from services.orchestrator.usecases.scheduler import Scheduler
from services.orchestrator.usecases.schedules import Schedules
from services.orchestrator.usecases.waiting_work import WaitingWork

ALICE = Principal("dev|alice", "sales", Role.ADMIN, False, CredentialKind.DEV, "", "", utc_now() + timedelta(hours=1))


class Models:
    """Knows one model that can do everything."""

    async def find(self, name: str) -> ModelInfo:
        if name != "m":
            raise NotFound(f"no {name}", reason="MODEL_NOT_FOUND")
        return ModelInfo(enabled=True, capabilities=frozenset(Capability))


class Sources:
    """Knows no source of tools."""

    async def needed(self, group_id: str, names: Collection[str]) -> dict[str, ToolSource]:
        return {}


class Grants:
    """Keeps grants as auth does, when it answers."""

    def __init__(self) -> None:
        self.unrevoked: set[str] = set()
        self.asked = 0
        self.away = False
        self.limits = NO_GROUP_LIMITS

    async def create(self, execution_id: str, identity: ExecutionIdentity, expiry: OnCredentialExpiry) -> Grant:
        self._ask()
        self.unrevoked.add(execution_id)
        # Long enough for a rival to come in between.
        await asyncio.sleep(0)
        return Grant(new_id(), ExecutionIdentity.GROUP)

    async def renew(self, execution_id: str) -> None:
        raise AssertionError("nothing here renews a credential")

    @contextlib.asynccontextmanager
    async def acting(self, grant_id: str, execution_id: str) -> AsyncIterator[GroupLimits]:
        await self.issue(grant_id, execution_id)
        yield self.limits

    async def issue(self, grant_id: str, execution_id: str) -> None:
        self._ask()
        if execution_id not in self.unrevoked:
            raise PermissionDenied("it was revoked", reason="DELEGATION_REVOKED")

    async def revoke(self, execution_id: str) -> None:
        self._ask()
        self.unrevoked.discard(execution_id)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("auth does not answer")


class Gateway(UnavailableTools):
    """A tool gateway of which nothing is missing."""

    async def unavailable(self) -> dict[str, str]:
        return {}


class Memories(KnownMemories):
    """Memories none of which is empty."""

    async def is_empty(self, memory: KnowledgeMemory) -> bool:
        return False


class Orchestrator:
    """The use cases on a real database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.grants = Grants()
        bus = self.bus = LocalHintBus()
        ender = ExecutionEnder(database, self.grants, bus)
        deadlines = QuestionDeadlines(database, QuestionSettler(ender, bus))
        self.overlap = Overlap(database, ender, bus)
        self.housekeeping = Housekeeping(database, ender, deadlines)
        self.waiting_work = WaitingWork(database, LeaseStore(database))
        feed = EventFeed(EventReader(database), bus, safety_read_seconds=3600, tail_bytes=100_000)
        validation = CrewValidation(Models(), Sources(), Gateway(), Memories(), default_model="m", max_bytes=100_000)
        self.starter = ExecutionStarter(database, validation, self.grants, bus, self.overlap, max_inputs_bytes=10_000)
        continuer = ExecutionContinuer(database, self.starter, default_model="m")
        self.executions = Executions(database, self.grants, bus, feed, self.starter, continuer, ender)
        self.batch_runner = BatchRunner(database, self.starter, self.executions, self.grants)
        self.batches = Batches(database, self.starter, self.grants, bus, max_inputs_bytes=10_000)
        self.schedules = Schedules(database, self.starter, self.grants, bus)
        self.scheduler = Scheduler(database, self.starter, self.grants, bus, 0.001)
        self.crew_id = new_id()

    async def prepare(self) -> None:
        spec = CrewSpec("c", (AgentSpec("a", "r", "g"),), (TaskSpec("t", "d", "e", "a"),))
        async with self.database.write() as connection:
            await CrewRepository(connection).insert(
                Crew(self.crew_id, "sales", 1, spec, utc_now(), utc_now()), "dev|alice"
            )

    async def start(self, request_id: str = "") -> Execution:
        start = Start(self.crew_id, 0, {}, {}, "", 0, None, ExecutionIdentity.UNSPECIFIED, OnCredentialExpiry.PARK)
        request = (
            RequestKey(ALICE.group_id, ALICE.subject, "StartExecution", request_id, "hash") if request_id else None
        )
        return await self.executions.start(ALICE, start, request)

    async def rows(self) -> list[Any]:
        async with self.database.read() as connection:
            return list(await connection.execute(executions.select().order_by(executions.c.id)))
