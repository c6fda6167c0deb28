"""When a slot is another execution's: a host has memory for as many crew processes as it has slots."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coxswain.auth.v1 import delegation_pb2
from services.common.db.database import Database
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import ExecutionState, OnCredentialExpiry, TaskOutput, TaskState
from services.orchestrator.tables import task_runs
from services.orchestrator.worker.host.run import ExecutionRun
from services.orchestrator.worker.host.stop_signal import LeaseLost, Lost
from tests.integration.worker.test_parking import Auth, World


class RecordingAuth(Auth):
    """Notes when a grant is revoked."""

    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self.happened = happened

    async def RevokeDelegation(self, request: Any, **_: Any) -> delegation_pb2.RevokeDelegationResponse:
        self.happened.append("grant revoked")
        return await super().RevokeDelegation(request)


class CrewProcess:
    """Exits when it may, or is killed."""

    def __init__(self, happened: list[str], *, exits: bool) -> None:
        self.happened = happened
        self.exits = exits
        self.closing = asyncio.Event()

    def let_end(self) -> None:
        self.happened.append("crew process may exit")

    async def close(self) -> None:
        self.closing.set()
        if not self.exits:
            await asyncio.Event().wait()
        self.happened.append("crew process gone")

    async def kill(self) -> None:
        self.happened.append("crew process killed")


class Scene(World):
    """An execution all of whose tasks are done, so that it ends at once."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.happened: list[str] = []
        self.auth = RecordingAuth(self.happened)

    async def about_to_end(self, process: CrewProcess) -> ExecutionRun:
        await self.queue(OnCredentialExpiry.PARK)
        done = {"state": TaskState.SUCCEEDED, "output": to_document(TaskOutput("done"))}
        async with self.database.write() as connection:
            await connection.execute(task_runs.update().where(task_runs.c.execution_id == self.id).values(done))
        run = await self.claim(lambda: self.happened.append("slot freed"))
        run._crew._crew = cast("Any", SimpleNamespace(process=process))
        return run


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


async def test_a_slot_is_free_once_the_crew_process_is_gone_before_auth_is_asked(scene: Scene) -> None:
    await (await scene.about_to_end(CrewProcess(scene.happened, exits=True))).run()
    assert scene.happened == ["crew process may exit", "crew process gone", "slot freed", "grant revoked"]
    assert (await scene.row()).state == ExecutionState.SUCCEEDED


async def test_a_crew_process_that_exits_slowly_is_killed_when_its_run_is_stopped(scene: Scene) -> None:
    process = CrewProcess(scene.happened, exits=False)
    run = await scene.about_to_end(process)
    running = asyncio.create_task(run.run())
    await process.closing.wait()
    run.stop(LeaseLost())
    with pytest.raises(Lost):
        await running
    assert scene.happened[:2] == ["crew process may exit", "crew process killed"]
    assert (await scene.row()).state == ExecutionState.SUCCEEDED
