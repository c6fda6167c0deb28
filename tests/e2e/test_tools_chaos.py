"""Crews pay with tools while the sources of these tools are killed and started again. `make chaos` runs it.

Every execution ends, and no payment is made twice by the sources' own count. `CHAOS_EXECUTIONS` (default 200) and
`CHAOS_SEED` (printed) say how many crews there are, and when which source is killed.
"""

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

import pytest

from coxswain.client import Client
from coxswain.orchestrator.v1 import question_state_pb2
from coxswain.orchestrator.v1.execution_pb2 import Execution
from tests.e2e.support import MODEL, SUCCEEDED, Scene, finish, get, kinds
from tests.support.llm_script import Reply, ToolCall
from tests.support.service_processes import ServiceProcesses
from tests.support.sources_of_tools import Sources, paying_crew, sources_of_tools, tell_what_became_of
from tests.support.suite_process import SuiteProcess

Own = SuiteProcess | ServiceProcesses
ADMIN, EDITOR = "dev:tina:tellers=admin", "dev:ed:tellers=editor"
CALLS = ("desk", "till", "desk", "till", "desk")
PAUSE_SECONDS = 2.0
"""Longest time a source takes to answer."""
UP_SECONDS = (2.0, 8.0)
"""How long both sources serve until one of them is killed."""


@pytest.fixture(params=["suite", "processes"])
def own(request: pytest.FixtureRequest, tmp_path: Path, model_environment: dict[str, str]) -> Own:
    """An installation whose gateway leaves a source alone for a second, and not for half a minute."""
    environment = model_environment | {"COXSWAIN_TOOLS_OUTAGE_PAUSE_SECONDS": "1"}
    if request.param == "suite":
        return SuiteProcess(tmp_path / "data", environment=environment)
    return ServiceProcesses(tmp_path / "data", request.getfixturevalue("postgres_url"), environment)


@pytest.mark.chaos
def test_two_hundred_crews_pay_while_their_sources_restart(scene: Scene, own: Own, tmp_path: Path) -> None:
    count = int(os.environ.get("CHAOS_EXECUTIONS", "200"))
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    dice = random.Random(seed)
    scene.llm.on(Reply(text="Settled."), route="chat", last_role="tool", contains=scene.mark)
    for number in range(count):
        calls = [
            ToolCall(name=f"{name}_pay", arguments={"key": f"{number}/{place}", "pause": dice.random() * PAUSE_SECONDS})
            for place, name in enumerate(CALLS)
        ]
        scene.llm.on(Reply(tool_calls=calls), route="chat", contains=f"{scene.mark} batch {number};")
    with own.running() as installation, sources_of_tools(tmp_path) as sources, installation.caller(ADMIN) as admin:
        sources.declare(admin, "secret")
        began = time.monotonic()
        with _Restarts(sources, dice) as restarts, installation.caller(EDITOR) as ed:
            client = ed.orchestrator
            answers = _Answers(installation.address("orchestrator"), sources)
            answers.start()
            started = []
            for number in range(count):
                spec = paying_crew(f"crew-{number}", f"Settle {scene.mark} batch {number};")
                spec.model = MODEL
                started.append(client.start(client.apply_crew(spec).crew, request_id=f"{scene.mark}-{number}"))
            happened = Counter[str]()
            for number, execution in enumerate(started):
                happened += _settled(client, execution, number, sources)
            assert (answers.failures, restarts.failures) == ([], [])
        seconds = time.monotonic() - began
    print(f"{seconds:.0f} s, {restarts.count} restarts, {answers.count} questions, {dict(happened)}")
    assert restarts.count > 2
    assert happened["tool_outcome_unknown"] == answers.count > 0


def _settled(client: Client, execution: Execution, number: int, sources: Sources) -> Counter[str]:
    """Wait for an execution's end, and hold each of its calls against what the sources have counted."""
    events = finish(client, execution)
    ended = get(client, execution)
    assert ended.state == SUCCEEDED, ended.error
    outcome: dict[str, str] = {}
    for event in events:
        kind = event.WhichOneof("event") or ""
        if kind in {"tool_call_started", "tool_outcome_unknown", "tool_call_completed", "tool_call_failed"}:
            outcome[getattr(event, kind).call_id] = kind
    keys = {
        event.tool_call_started.call_id: json.loads(event.tool_call_started.arguments_json)["key"]
        for event in events
        if event.HasField("tool_call_started")
    }
    for place, name in enumerate(CALLS):
        key = f"{number}/{place}"
        source = {"desk": sources.desk, "till": sources.till}[name]
        became = {outcome[call_id] for call_id, called in keys.items() if called == key}
        assert became, f"{key} was never called"
        assert "tool_call_started" not in became, f"{key} has no outcome"
        # Only one whose outcome was asked about may be either: the person has looked it up.
        least, most = int("tool_call_completed" in became), int(became != {"tool_call_failed"})
        assert least <= source.paid(key) <= most, (key, became)
    return Counter(kind for kind in kinds(events) if kind.startswith("tool_"))


class _Restarts:
    """Kills one source after the other, and starts it again."""

    def __init__(self, sources: Sources, dice: random.Random) -> None:
        self.count = 0
        self.failures: list[BaseException] = []
        self._sources, self._dice = (sources.desk, sources.till), dice
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._dice.uniform(*UP_SECONDS)):
            try:
                self._sources[self.count % 2].restart()
            except BaseException as error:
                self.failures.append(error)
                return
            self.count += 1


class _Answers(threading.Thread):
    """The person who is asked."""

    def __init__(self, address: str, sources: Sources) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self.failures: list[BaseException] = []
        self._address, self._sources = address, sources

    def run(self) -> None:
        with Client(self._address, token=EDITOR) as client:
            try:
                for change in client.watch_questions():
                    if change.question.state == question_state_pb2.QUESTION_STATE_OPEN:
                        tell_what_became_of(client, change.question, self._sources)
                        self.count += 1
            except BaseException as error:
                self.failures.append(error)
