"""Processes are forked ahead: they are the next ones used, once, and nobody misses one that dies."""

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_life import Life
from services.orchestrator.worker.host.crew_process import ForkServer, _Forked
from services.orchestrator.worker.link.host_end import CrewProcessLost
from tests.support.waiting import PATIENCE, until
from tests.unit.worker.crew.scripted_host import ScriptedHost, answer, segment

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREW = CrewSpec("c", (AgentSpec("a", "Reader", "Read", model="m"),), (TaskSpec("t", "Read.", "Words", "a"),), model="m")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keeping(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ForkServer]:
    """A fork server that keeps a process ready."""
    data: Path = tmp_path_factory.mktemp("crew")
    async with ForkServer(crew_environment(data)) as server:
        await server.warm()
        server.keep_spares(1)
        yield server


async def spare(server: ForkServer) -> int:
    await until(lambda: server._spares)
    return server._spares[0].life.pid


async def test_what_was_forked_ahead_is_used_once(keeping: ForkServer) -> None:
    def processor_seconds() -> float:
        return REGISTRY.get_sample_value("coxswain_worker_crew_cpu_seconds_total") or 0.0

    used = []
    before = processor_seconds()
    for _ in range(3):
        ahead = await spare(keeping)
        async with segment(keeping, ScriptedHost(lambda _: answer("Done.")), CREW) as run:
            assert (await run.task(0)).text == "Done."
            used.append(run.process.pid)
            assert run.process.pid == ahead
            assert await spare(keeping) != ahead
        assert await keeping.gone(ahead, PATIENCE)
    assert len(set(used)) == 3
    assert processor_seconds() > before


async def test_one_that_is_known_to_have_died_is_not_used(keeping: ForkServer) -> None:
    ahead = await spare(keeping)
    os.kill(ahead, signal.SIGKILL)
    assert await keeping.gone(ahead, PATIENCE)
    async with segment(keeping, ScriptedHost(lambda _: answer("Done.")), CREW) as run:
        assert run.process.pid != ahead
        assert (await run.task(0)).text == "Done."


async def test_one_is_known_by_more_than_its_number(tmp_path: Path) -> None:
    """Numbers of processes come again."""
    server = ForkServer({"HOME": str(tmp_path)})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server._living[7] = Life(7)
        server._spares.extend([_Forked(Life(7), ours), living := _Forked(server._living[7], theirs)])
        assert server._take_spare() is living
        assert ours.fileno() == -1, "closed"


async def test_one_whose_death_nobody_has_noticed_says_so_at_once(keeping: ForkServer) -> None:
    ahead = await spare(keeping)
    os.kill(ahead, signal.SIGKILL)
    with pytest.raises(CrewProcessLost):
        async with segment(keeping, ScriptedHost(lambda _: answer("Done.")), CREW):
            pass
    async with segment(keeping, ScriptedHost(lambda _: answer("Done.")), CREW) as run:
        assert (await run.task(0)).text == "Done."


async def test_it_dies_with_the_fork_server_and_comes_back_with_it(keeping: ForkServer) -> None:
    ahead = await spare(keeping)
    assert keeping._process is not None
    keeping._process.kill()
    assert await keeping.gone(ahead, PATIENCE)
    async with segment(keeping, ScriptedHost(lambda _: answer("Done.")), CREW) as run:
        assert (await run.task(0)).text == "Done."
        assert await spare(keeping) not in {ahead, run.process.pid}


async def test_so_many_are_kept_as_are_wanted_at_once(keeping: ForkServer) -> None:
    keeping.keep_spares(3)

    async def ahead() -> list[int]:
        await until(lambda: len(keeping._spares) >= 3)
        return [one.life.pid for one in keeping._spares]

    kept = await ahead()
    async with contextlib.AsyncExitStack() as running:
        runs = [
            await running.enter_async_context(segment(keeping, ScriptedHost(lambda _: answer("Done.")), CREW))
            for _ in range(3)
        ]
        assert [run.process.pid for run in runs] == kept
        assert not set(await ahead()) & set(kept)
    keeping.keep_spares(1)
