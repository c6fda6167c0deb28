"""Several processes that serve as one: started in order, started again, and ended together."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.common.backoff import Backoff
from services.common.ports import reserved_port
from services.common.process_group import ProcessGroup
from services.common.process_state import ProcessState
from services.common.startup import StartError
from tests.support.waiting import until

_PROGRAM = """
import os, pathlib, signal, sys, time
directory = pathlib.Path(sys.argv[1])
pipe, parent = map(int, os.environ["COXSWAIN_MEMBER"].split(":"))
def end(*_):
    (directory / f"{os.getpid()}.ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
if (directory / "broken").exists():
    sys.exit(3)
others = len(list(directory.glob("*.began")))
written = directory / f"{os.getpid()}.written"
written.write_text(str(others))
written.rename(written.with_suffix(".began"))
silent = directory / f"{os.getpid()}.silent"
while os.getppid() == parent:
    if not silent.exists():
        os.write(pipe, b".")
    time.sleep(0.02)
"""


def group_of(count: int, directory: Path, **options: Any) -> ProcessGroup:
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(directory)]
    return ProcessGroup(
        "test", count, environment_of=lambda _: {}, command=command, backoff=Backoff(0.01, 0.01), **options
    )


def began(directory: Path) -> dict[int, int]:
    """Return how many had begun before each process."""
    return {int(path.stem): int(path.read_text()) for path in directory.glob("*.began")}


def ended(directory: Path) -> set[int]:
    return {int(path.stem) for path in directory.glob("*.ended")}


@contextlib.asynccontextmanager
async def running(group: ProcessGroup, state: ProcessState) -> AsyncIterator[None]:
    serving = asyncio.Event()
    run = asyncio.create_task(group.run(state, serving.set))
    watch = asyncio.create_task(state.watch_loop())
    await serving.wait()
    try:
        yield
    finally:
        state.begin_stop()
        await run
        watch.cancel()


async def test_the_first_serves_before_the_others_begin_and_all_end_when_asked(tmp_path: Path) -> None:
    state = ProcessState()
    async with running(group_of(3, tmp_path), state):
        assert state.ready
        before = began(tmp_path)
        assert len(before) == 3
        assert sorted(before.values())[:2] == [0, 1], "nobody began before the first one served"

    assert ended(tmp_path) == set(before)
    assert not state.ready


async def test_one_that_is_killed_is_started_again_while_the_other_serves(tmp_path: Path) -> None:
    state = ProcessState()
    async with running(group_of(2, tmp_path), state):
        killed = min(began(tmp_path))
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(began(tmp_path)) == 3)
        assert state.ready

    assert ended(tmp_path) == set(began(tmp_path)) - {killed}


async def test_one_that_shows_no_life_is_killed_and_started_again(tmp_path: Path) -> None:
    state = ProcessState()
    # The other one, which lives, is to be heard of within 60 turns on a busy machine too.
    async with running(group_of(2, tmp_path, turn_seconds=0.05), state):
        silent = min(began(tmp_path))
        (tmp_path / f"{silent}.silent").touch()
        await until(lambda: len(began(tmp_path)) >= 3)

    assert silent not in ended(tmp_path)


async def test_one_that_shows_no_life_and_outlives_its_kill_counts_as_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
    state = ProcessState()
    # Within 120 turns both are to be heard of.
    async with running(group_of(2, tmp_path, turn_seconds=0.03), state):
        assert state.alive
        (tmp_path / f"{min(began(tmp_path))}.silent").touch()
        await until(lambda: not state.alive)
        assert not state.ready


async def test_one_that_the_machine_has_no_room_for_is_started_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, popen = [0, 0], subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        if refused:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), refused.pop())
        return popen(*arguments, **options)

    async with running(group_of(2, tmp_path), ProcessState()):
        monkeypatch.setattr(subprocess, "Popen", start)
        os.kill(min(began(tmp_path)), signal.SIGKILL)
        await until(lambda: len(began(tmp_path)) == 3)

    assert not refused


async def test_a_group_that_the_machine_has_no_room_for_says_so(tmp_path: Path) -> None:
    group = ProcessGroup("test", 2, environment_of=lambda _: {}, command=[str(tmp_path / "absent")])

    with pytest.raises(StartError, match="no process of test can be started: No such file"):
        await group.run(ProcessState(), lambda: None)


async def test_one_that_cannot_start_keeps_the_service_from_starting(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()

    with pytest.raises(StartError, match="exit code 3"):
        await group_of(2, tmp_path).run(ProcessState(), lambda: None)


async def test_a_stop_during_the_start_ends_what_has_begun(tmp_path: Path) -> None:
    state = ProcessState()
    run = asyncio.create_task(group_of(2, tmp_path).run(state, state.begin_stop))
    await until(lambda: bool(began(tmp_path)))
    state.begin_stop()
    await run

    assert ended(tmp_path) == set(began(tmp_path))


def test_a_reserved_port_is_for_the_group_alone() -> None:
    with reserved_port("127.0.0.1", 0, "COXSWAIN_TEST_PORT") as port:
        with socket.socket() as member:
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind(("127.0.0.1", port))
            member.listen()
            again = reserved_port("127.0.0.1", port, "COXSWAIN_TEST_PORT")
            with pytest.raises(StartError, match="COXSWAIN_TEST_PORT"), again:
                pass
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
