"""What code in a crew process cannot do, whatever it is: the kernel refuses it."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from services.common.containment.contain import Measure
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.worker.host import crew_process
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.host.crew_process import ForkServer
from services.orchestrator.worker.host.metrics import proportional_memory
from services.orchestrator.worker.link.host_end import CrewProcessLost
from services.orchestrator.worker.link.limits import CrewLimits
from tests.support.deep_directories import make_deep
from tests.support.surroundings import not_refused, surroundings
from tests.unit.worker.crew.scripted_host import ScriptedHost, answer, segment

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREW = CrewSpec("attempts", (AgentSpec("a", "A", "Try", model="m"),), (TaskSpec("t", "Try.", "Words", "a"),), model="m")
_MIB = 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ForkServer]:
    """A fork server of the tests' own program."""
    home = tmp_path_factory.mktemp("data") / "crewai"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew_process, "_COMMAND", ("-m", "tests.support.probing_fork_server"))
        async with ForkServer(crew_environment(home)) as server:
            await server.warm()
            yield server


async def test_whatever_leaves_the_process_is_refused(probing: ForkServer) -> None:
    async with segment(probing, ScriptedHost(), CREW) as sibling:
        directory = directory_of(probing, sibling.process.pid)
        (directory / "note").write_text("theirs")
        async with surroundings(probing._home.parent, sibling.process.pid, directory / "note") as around:
            given = {"around": json.dumps(asdict(around))}
            async with segment(probing, ScriptedHost(), CREW, inputs=given) as run:
                found = json.loads((await run.task(0)).text)
            assert not_refused(found, holding_of(probing)) == {}


async def test_the_kernel_says_what_holds(probing: ForkServer) -> None:
    holding = holding_of(probing)
    if sys.platform != "linux":
        assert not holding
        return
    async with segment(probing, ScriptedHost(), CREW) as run:
        proc = Path("/proc") / str(run.process.pid)
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        rows = [re.split(r"  +", line) for line in (proc / "limits").read_text().splitlines()]
        limits = {row[0]: row[1:3] for row in rows}
        assert proportional_memory(probing.memory_files) > _MIB
    assert (status["NoNewPrivs"], status["Seccomp"], status["CapEff"]) == (
        "1" if Measure.NO_NEW_PRIVILEGES in holding else "0",
        "2" if Measure.CALL_FILTER in holding else "0",
        "0" * 16,
    )
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == [str(CrewLimits().file_mib * _MIB)] * 2
    addresses, data = int(limits["Max address space"][1]), int(limits["Max data size"][1])
    assert CrewLimits().memory_mib * _MIB < data < addresses < 16 * 1024 * _MIB


async def test_its_directory_goes_with_the_process(probing: ForkServer) -> None:
    async with segment(probing, ScriptedHost(), CREW) as run:
        directory = directory_of(probing, run.process.pid)
        assert directory.stat().st_mode & 0o777 == 0o700
        make_deep(directory)
    await asyncio.gather(*probing._removing._tasks)
    assert not directory.exists()


async def test_its_only_socket_is_the_one_to_its_host(probing: ForkServer) -> None:
    async with segment(probing, ScriptedHost(), replace(CREW, name="sockets")) as run:
        assert len(json.loads((await run.task(0)).text)) == 1


@pytest.fixture
def played(probing: ForkServer) -> Iterator[Path]:
    """The path that tells processes which are forked from now on what to play; nothing once the test is over."""
    home = probing._home
    yield home
    for name in ("fails", "hangs"):
        (home / name).unlink(missing_ok=True)


async def test_one_that_cannot_be_contained_says_why(probing: ForkServer, played: Path) -> None:
    (played / "fails").touch()
    with pytest.raises(CrewProcessLost):
        async with segment(probing, ScriptedHost(), CREW):
            pass
    assert "NotContained: [Errno 22] file_rules: played" in (played / "stderr").read_text()


async def test_one_that_hangs_before_it_begins_is_ended(
    probing: ForkServer, played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_process, "_GREETING_SECONDS", 0.05)
    (played / "hangs").touch()
    with capture_logs() as logs, pytest.raises(CrewProcessLost):
        async with segment(probing, ScriptedHost(), CREW):
            pass
    assert "crew_process_did_not_begin" in [entry["event"] for entry in logs]
    assert probing._living == {}


async def test_what_is_missing_is_told_and_crews_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_process, "_COMMAND", ("-m", "tests.support.without_landlock", *crew_process._COMMAND[1:]))
    with capture_logs() as logs:
        async with ForkServer(crew_environment(tmp_path)) as server:
            await server.warm()
            async with segment(server, ScriptedHost(lambda _: answer("Done.")), replace(CREW, name="plain")) as run:
                assert (await run.task(0)).text == "Done."
            assert (Measure.CALL_FILTER in holding_of(server)) == (sys.platform == "linux")
    (told,) = (entry for entry in logs if entry["event"] == "crew_processes_not_contained")
    assert told["missing"] == (["file_rules"] if sys.platform == "linux" else list(Measure))


def directory_of(server: ForkServer, pid: int) -> Path:
    directory = server._living[pid].directory
    assert directory is not None
    return directory


def holding_of(server: ForkServer) -> set[Measure]:
    assert server._missing is not None
    return set(Measure) - set(map(Measure, server._missing))
