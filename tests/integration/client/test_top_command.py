"""What goes on in a group, at a terminal and in a pipe."""

import contextlib
import io
import json
import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from coxswain.client import Client
from coxswain.client.cli import top
from coxswain.client.cli.overview import Overview
from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1 import question_pb2
from tests.integration.client.command_line import INTERRUPTIBLE, invoke
from tests.integration.client.installation import Installation, Server, refuse
from tests.support.child_process import scrubbed_environment

ROOT = Path(__file__).parents[3]
RUNNING, QUEUED = pb.EXECUTION_STATE_RUNNING, pb.EXECUTION_STATE_QUEUED


@pytest.fixture
def states(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> list[pb.ExecutionState.ValueType]:
    """The states of the group's executions, the newest first."""
    states: list[pb.ExecutionState.ValueType] = []

    def listed(self: Installation, request: Any, context: Any) -> pb.ListExecutionsResponse:
        self.enter("ListExecutions", request, context)
        answer = pb.ListExecutionsResponse()
        found = [(number, state) for number, state in enumerate(states) if state in request.states]
        for number, state in found[: request.page_size]:
            one = answer.executions.add(id=f"01a20694-1f86-7c54-8594-1ba93020{2390 + number}", state=state)
            one.crew_name, one.subject = "brief\x1b[2J\u202e", "dev|alice"
            one.create_time.FromDatetime(datetime.now(UTC) - timedelta(minutes=12))
        answer.next_page_token = "more" if len(found) > request.page_size else ""
        return answer

    monkeypatch.setattr(Installation, "ListExecutions", listed, raising=False)
    return states


@pytest.fixture
def busy(states: list[pb.ExecutionState.ValueType], installation: Installation) -> Installation:
    """A group with an execution that runs, one in the queue, and a question."""
    states += [QUEUED, RUNNING]
    installation.questions = [question_pb2.Question(id="01a20694-1f86-7c54-8594-1ba930202400")]
    return installation


def test_one_look_is_text_or_json(busy: Installation, server: Server) -> None:
    shown = invoke(server.address, "top", "--once")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "1 running, 1 queued, 1 to answer" in shown.stdout
    assert not {"\x1b", "\u202e"} & set(shown.stdout)
    assert shown.stdout.index("running  ") < shown.stdout.index("queued  ")
    look = json.loads(invoke(server.address, "top", "--once", "--json").stdout)
    assert (look["running"], look["queued"], look["questions"], look["workers"]) == (1, 1, 1, None)
    assert busy.calls == {"ListExecutions": 4, "ListQuestions": 2}


def test_a_long_queue_hides_nothing_that_runs(states: list[pb.ExecutionState.ValueType], server: Server) -> None:
    states += [*[QUEUED] * 150, RUNNING, pb.EXECUTION_STATE_WAITING_FOR_ANSWER]
    shown = invoke(server.address, "top", "--once").stdout
    assert "1 running, 1 waiting, 98+ queued" in shown
    states[:] = [QUEUED, QUEUED, *[RUNNING] * 101]
    shown = invoke(server.address, "top", "--once").stdout
    assert "100+ running, 1+ queued" in shown


def test_it_is_readable_at_sixty_columns(busy: Installation, server: Server) -> None:
    with Client(server.address) as client:
        look = next(top._looks(client, server.address))
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(look)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert any("01a20694-1f86-7c54-8594-1ba930202391" in line and "running" in line for line in lines)


def test_a_lost_connection_is_said_and_made_again(busy: Installation, server: Server) -> None:
    gone = lambda context: refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "x")  # noqa: E731
    with Client(server.address) as client:
        looks = top._looks(client, server.address)
        assert not next(looks).lost
        busy.faults["ListExecutions"] = [
            lambda context: refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
        ]
        old = next(looks)
        assert "no connection for 0 s" in old.line()
        assert len(old.executions) == 2
        assert not next(looks).lost
        busy.faults["ListExecutions"] = [gone]
        with pytest.raises(Exception, match="x"):
            next(looks)


def test_no_worker_stands_out() -> None:
    look = Overview("here", datetime.now(UTC), workers=0, cost=0.25)
    assert look.line() == "0 running, 0 queued, 0 workers, $0.2500 today"


def test_more_questions_than_are_shown_are_marked() -> None:
    look = Overview("here", datetime.now(UTC), questions=[question_pb2.Question()] * 20, more_questions=True)
    assert look.line() == "0 running, 0 queued, 20+ to answer"


@contextlib.contextmanager
def terminal(server: Server, home: Path) -> Iterator[tuple[int, int, int]]:
    """`coxswain top` on a terminal: its process, the person's end and the terminal's."""
    person, end = pty.openpty()
    environment = scrubbed_environment(home, COXSWAIN_ADDRESS=server.address, TERM="xterm", COLUMNS="80", LINES="24")
    arguments = [sys.executable, "-c", INTERRUPTIBLE, "top", "--interval", "1"]
    actions = [(os.POSIX_SPAWN_DUP2, end, number) for number in range(3)]
    os.set_inheritable(end, True)
    environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / part) for part in ("gen", "clients/python"))
    process = os.posix_spawn(sys.executable, arguments, environment, file_actions=actions)
    try:
        yield process, person, end
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.close(person)
        os.close(end)


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(("leave", "status"), [("q", 0), ("interrupt", 130)])
def test_the_terminal_is_as_before_when_it_ends(server: Server, tmp_path: Path, leave: str, status: int) -> None:
    with terminal(server, tmp_path) as (process, person, end):
        before = termios.tcgetattr(end)
        seen, until = b"", time.monotonic() + 60
        while b"1 running, 1 queued" not in seen and time.monotonic() < until:
            if select.select([person], [], [], 1)[0]:
                seen += os.read(person, 65536)
        assert b"1 running, 1 queued" in seen, seen
        assert termios.tcgetattr(end) != before
        if leave == "q":
            os.write(person, b"xq")
        else:
            os.kill(process, signal.SIGINT)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == status
        while select.select([person], [], [], 0)[0]:
            seen += os.read(person, 65536)
        assert termios.tcgetattr(end) == before
        assert seen.rindex(b"\x1b[?1049l") > seen.rindex(b"\x1b[?1049h")
        assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
        assert b"Traceback" not in seen
