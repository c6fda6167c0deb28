"""What a run does at the moment its user's credential expires: rows are real, auth is played to choose the moment."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from coxswain.auth.v1 import delegation_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unauthenticated
from services.common.grpc.status import DETAILS_KEY, to_status
from services.orchestrator.domain.artifact import ArtifactLimits
from services.orchestrator.domain.execution import (
    ExecutionState,
    OnCredentialExpiry,
)
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.model_lookup import ModelLookup
from services.orchestrator.worker.host.run import ExecutionRun
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_store import RunStore
from services.orchestrator.worker.settings import WorkerSettings
from tests.integration.worker.rows import ROOM, event_rows, execution_row, queue

S = ExecutionState


def expired() -> grpc.aio.AioRpcError:
    code, status = to_status(Unauthenticated("the token has expired", reason="CREDENTIAL_EXPIRED"), "")
    details = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), details, details=status.message)


class Auth:
    """Says that the credential has expired, and lets something happen meanwhile."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.renewed = False
        self.revoked: list[str] = []

    async def IssueExecutionPrincipal(self, _: Any) -> delegation_pb2.IssueExecutionPrincipalResponse:
        if self.renewed:
            response = delegation_pb2.IssueExecutionPrincipalResponse(principal_token="fresh")
            response.principal.expire_time.FromDatetime(utc_now() + timedelta(minutes=5))
            return response
        if self.meanwhile is not None:
            await self.meanwhile()
        raise expired()

    async def RevokeDelegation(self, request: Any, **_: Any) -> delegation_pb2.RevokeDelegationResponse:
        self.revoked.append(request.execution_id)
        return delegation_pb2.RevokeDelegationResponse()


class Hints(LocalHintBus):
    """Remembers which executions were said to be ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[str] = []

    def publish(self, hint: Hint) -> None:
        if hint.kind is HintKind.EXECUTION_READY:
            self.ready.append(hint.execution_id)


class World:
    """One execution that a host claims."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.auth = Auth()
        self.id = ""
        self.hints = Hints()

    async def queue(self, on_expiry: OnCredentialExpiry) -> None:
        self.id = await queue(self.database, on_credential_expiry=on_expiry)

    async def run(self) -> Any:
        """Claim and run it as a host does; return its row."""
        await (await self.claim()).run()
        return await self.row()

    async def claim(self, on_rest: Callable[[], None] = lambda: None) -> ExecutionRun:
        """Claim it, and return what runs it."""
        store = RunStore(self.database)
        (claim,) = await store.take("host", ROOM)
        unreachable = cast("Any", SimpleNamespace(GetModel=None))
        context = RunContext(
            store=store,
            fork_server=cast("Any", None),
            stubs=cast("Any", SimpleNamespace(tools=None, tools_ready=None)),
            auth=cast("Any", self.auth),
            models=ModelLookup(unreachable, unreachable, retry_seconds=0),
            hints=self.hints,
            pruner=ChunkPruner(store, retention=60),
            settings=WorkerSettings(),
            default_model="m",
            max_message_bytes=4 * 1024 * 1024,
            artifact_limits=ArtifactLimits(0, 0, 0, 0),
            checker=cast("Any", None),
            sources=cast("Any", None),
        )
        return ExecutionRun(claim, context, on_rest)

    async def row(self) -> Any:
        return await execution_row(self.database, self.id)

    async def kinds(self) -> list[str]:
        return [row.kind for row in await event_rows(self.database, self.id)]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


async def test_an_execution_whose_credential_has_expired_rests_and_keeps_its_grant(world: World) -> None:
    await world.queue(OnCredentialExpiry.PARK)
    row = await world.run()
    assert (row.state, row.ready, row.generation) == (S.WAITING_FOR_CREDENTIAL, False, 1)
    assert (await world.kinds())[-1] == "execution_parked"
    assert (world.auth.revoked, world.hints.ready) == ([], [])


async def test_one_that_is_to_fail_then_fails_with_the_reason(world: World) -> None:
    await world.queue(OnCredentialExpiry.FAIL)
    row = await world.run()
    assert (row.state, row.error["reason"]) == (S.FAILED, "CREDENTIAL_EXPIRED")
    assert world.auth.revoked == [world.id]


async def test_a_cancellation_at_the_moment_of_parking_ends_the_execution(world: World) -> None:
    await world.queue(OnCredentialExpiry.PARK)

    async def cancel() -> None:
        # The host is not told: its hint comes too late.
        async with world.database.write() as connection:
            await ExecutionRepository(connection).request_cancel(world.id, utc_now())

    world.auth.meanwhile = cancel
    row = await world.run()
    assert row.state == S.CANCELLED
    assert row.ended_at is not None
    assert "execution_parked" not in await world.kinds()
    assert (await world.kinds())[-1] == "execution_cancelled"
    assert world.auth.revoked == [world.id]


async def test_a_credential_renewed_at_the_moment_of_parking_lets_the_execution_go_on(world: World) -> None:
    await world.queue(OnCredentialExpiry.PARK)

    async def renew() -> None:
        # Whoever renews finds it running: there is nothing for them to wake.
        assert (await world.row()).state == S.RUNNING
        world.auth.renewed = True

    world.auth.meanwhile = renew
    row = await world.run()
    assert (row.state, row.ready, row.generation) == (S.QUEUED, True, 2)
    assert world.hints.ready == [world.id]
