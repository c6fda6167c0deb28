"""Replicas of the gateway's use cases on one database, with a tool whose source the test plays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.identity.row_seal import RowSeal
from services.common.identity.service_identity import ServiceIdentity
from services.common.ids import new_id
from services.orchestrator.domain.gateway_call import CallKey
from services.orchestrator.domain.tool_outcome import Outcome
from services.orchestrator.domain.tool_source import HttpApi, SourceEndpoint, SourceKind, ToolPolicy, ToolSourceSpec
from services.orchestrator.tool_gateway.ports import CallProgress, ToolAdapter, ToolCallRequest, ToolResult
from services.orchestrator.tool_gateway.usecases.artifact_uploads import ArtifactUploads
from services.orchestrator.tool_gateway.usecases.call_board import Ended
from services.orchestrator.tool_gateway.usecases.call_runner import CallOrder, CallRunner
from services.orchestrator.tool_gateway.usecases.call_store import CallStore
from services.orchestrator.tool_gateway.usecases.source_limits import SourceLimits
from services.orchestrator.tool_gateway.usecases.tool_calls import ToolCalls

WAIT_SECONDS = 60.0

SourceT = TypeVar("SourceT", bound=ToolAdapter)

Script = Callable[[ToolCallRequest, CallProgress], Awaitable[ToolResult]]
Resume = Callable[[ToolCallRequest, str, CallProgress], Awaitable[ToolResult]]


class PlayedSource:
    """A source that does what a test says, and counts."""

    def __init__(self, call: Script, resume: Resume | None = None) -> None:
        self._call = call
        self._resume = resume
        self.calls: list[str] = []
        self.resumed: list[str] = []

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        self.calls.append(request.call_id)
        return await self._call(request, progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        self.resumed.append(handle)
        assert self._resume is not None, "nobody expected this source to be asked"
        return await self._resume(request, handle, progress)

    async def list_tools(self, source: Any, principal: Any) -> list[Any]:
        return []

    async def close(self) -> None:
        """There is nothing to close."""


class Replica(Generic[SourceT]):
    """One process of the gateway."""

    def __init__(
        self, database: Database, identity: ServiceIdentity, source: SourceT, *, lease: float = 3.0, **limits: Any
    ) -> None:
        values = {"at_once": 8, "waiting": 64, "outage_threshold": 5, "outage_pause": 30.0} | limits
        self.store = CallStore(database, RowSeal(identity, "test"), new_id(), lease_seconds=lease)
        self.source = source
        adapters = dict.fromkeys(SourceKind, source)
        self._limits = SourceLimits(database, **values)
        files = ArtifactUploads(database, max_bytes=0)
        runner = CallRunner(adapters, {"http_request": source}, self._limits, max_result_bytes=1024 * 1024, files=files)
        self.calls = ToolCalls(self.store, runner, lease_seconds=lease, question_seconds=WAIT_SECONDS)

    def has_waiting(self) -> bool:
        """Whether a call waits for its turn."""
        return any(turns.waiting for turns in self._limits._turns.values())

    async def call(self, order: CallOrder) -> Outcome:
        """Make or follow a call and return its outcome."""
        return (await self.end(order)).outcome

    async def end(self, order: CallOrder) -> Ended:
        """Make or follow a call and return its end."""
        async with asyncio.timeout(WAIT_SECONDS):
            *_, last = [event async for event in self.calls.execute(order)]
        assert isinstance(last, Ended)
        return last

    async def die(self) -> None:
        """End as SIGKILL would: nothing is released, and nobody renews a lease any more."""
        for task in list(self.calls._background._tasks) + list(self.calls._running._tasks):
            task.cancel()
        # What runs is cut off before it can store anything.
        self.store._database = None  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def running(*replicas: Replica[Any]) -> AsyncIterator[None]:
    """Start replicas, and close those that still live."""
    for replica in replicas:
        replica.calls.start()
    try:
        yield
    finally:
        for replica in replicas:
            if replica.store._database is not None:
                await replica.calls.close()


def principal(group_id: str = "sales") -> Principal:
    expires_at = utc_now() + timedelta(hours=1)
    return Principal("dev|alice", group_id, Role.ADMIN, False, CredentialKind.DEV, "", "", expires_at, "token")


def order(
    *,
    call_id: str = "",
    group_id: str = "sales",
    source: str = "bank",
    idempotent: bool = False,
    timeout: float = 60.0,
    max_timeout: float = 60.0,
    execution_id: str = "",
    kind: SourceKind = SourceKind.HTTP,
    endpoint: SourceEndpoint | None = None,
    **policy: Any,
) -> CallOrder:
    """Return a call of the tool "pay" of the played source."""
    spec = ToolSourceSpec(
        name=source,
        kind=kind,
        endpoint=endpoint or HttpApi("https://bank.example.com", ()),
        policies=(ToolPolicy(**policy),),
    )
    request = ToolCallRequest(
        call_id=call_id or new_id(),
        source=spec,
        tool="pay",
        arguments={},
        principal=principal(group_id),
        execution_id=execution_id,
        idempotent=idempotent,
    )
    return CallOrder(request, f"{source}/pay", timeout, max_timeout)


def key_of(made: CallOrder) -> CallKey:
    return CallKey(made.request.principal.group_id, made.request.call_id)
