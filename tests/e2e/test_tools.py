"""Crews that pay with tools of real sources, from the source's declaration to the answer. On both deployments."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from google.protobuf.struct_pb2 import Struct

from coxswain.orchestrator.v1 import question_state_pb2, tool_pb2
from coxswain.orchestrator.v1.crew_pb2 import CrewSpec
from coxswain.orchestrator.v1.execution_pb2 import Execution, ExecutionEvent
from tests.e2e.support import SUCCEEDED, Scene, finish, get, kinds, outputs
from tests.support.installation import Caller, Installation, crew_processes, wait_until
from tests.support.llm_script import ToolCall
from tests.support.marked_secrets import MarkedSecrets
from tests.support.private_files import private_file
from tests.support.sources_of_tools import (
    Sources,
    accept,
    open_questions,
    paying_crew,
    sources_of_tools,
    tell_what_became_of,
)

LONG_SECONDS = 300


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    with sources_of_tools(tmp_path_factory.mktemp("sources")) as running:
        yield running


@pytest.fixture
def group() -> str:
    """A group of the test's own: sources have names in groups."""
    return f"tellers-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def tina(installation: Installation, group: str) -> Iterator[Caller]:
    """An admin."""
    with installation.caller(f"dev:tina:{group}=admin") as caller:
        yield caller


@pytest.fixture
def ed(installation: Installation, group: str) -> Iterator[Caller]:
    """An editor of the same group."""
    with installation.caller(f"dev:ed:{group}=editor") as caller:
        yield caller


def test_a_payment_that_a_person_approves_is_made_once_and_its_secret_stays_in_the_gateway(
    scene: Scene, installation: Installation, sources: Sources, tina: Caller, ed: Caller
) -> None:
    marked = MarkedSecrets()
    secret = marked.add("of the source", f"marked+desk/secret={uuid.uuid4().hex}")
    sources.declare(tina, secret, approval=True)
    assert _who(tina) == hashlib.sha256(f"Bearer {secret}".encode()).hexdigest(), "the secret went where it belongs"
    key = scene.word("approved")
    scene.answers("settle", "Settled.", last_role="tool", hang=True)
    scene.answers("settle", tool=ToolCall(name="desk_pay", arguments={"key": key}))
    execution = ed.orchestrator.start(ed.orchestrator.apply_crew(_crew(scene)).crew)

    events = _parked(ed, execution)
    [question] = open_questions(ed.orchestrator, execution)
    assert question.kind == question_state_pb2.QUESTION_KIND_TOOL_APPROVAL
    assert (question.call.source, key in question.call.arguments_json) == ("desk", True)
    assert sources.desk.paid(key) == 0, "nothing is paid before somebody says so"
    accept(ed.orchestrator, question)
    scene.wait_until_hanging("settle")
    _search_memory_of_crews(installation, marked, scene.word("settle"))
    scene.llm.release()

    events += finish(ed.orchestrator, execution, events[-1].sequence)
    ended = get(ed.orchestrator, execution)
    assert (ended.state, ended.usage.tool_calls) == (SUCCEEDED, 1)
    assert kinds(events).count("tool_call_completed") == 1
    assert sources.desk.paid(key) == 1
    sources.retract(tina)
    told = [*map(str, [ended, question, *events, *outputs(ed.orchestrator, execution)]), installation.logs]
    assert {what for text in (*told, *installation.everything_stored()) for what in marked.found_in(text)} == set()
    files = [file.read_bytes() for file in installation.data_dir.rglob("*") if file.is_file()]
    assert {what for content in files for what in marked.found_in(content)} == set()


def test_a_source_that_restarts_in_the_middle_of_a_payment_makes_it_once(
    scene: Scene, sources: Sources, tina: Caller, ed: Caller
) -> None:
    sources.declare(tina, "secret")
    desk, till = scene.word("desk"), scene.word("till")
    scene.answers("settle", "Settled.", last_role="tool")
    calls = [
        ToolCall(name=f"{name}_pay", arguments={"key": key, "pause": LONG_SECONDS})
        for name, key in (("desk", desk), ("till", till))
    ]
    scene.answers("settle", tool=calls[0], nth=1)
    execution = ed.orchestrator.start(ed.orchestrator.apply_crew(_crew(scene)).crew)
    wait_until(lambda: sources.desk.paid(desk) == 1, "the payment has arrived")
    sources.desk.restart()

    events = _parked(ed, execution)
    assert kinds(events).count("tool_outcome_unknown") == 1
    [question] = open_questions(ed.orchestrator, execution)
    # An agent that goes on is prompted as at first; then it pays at the till, which can say what became of a call.
    scene.llm.clear_rules()
    scene.answers("settle", tool=calls[1], last_contains="found paid")
    scene.answers("settle", "Settled.", last_role="tool")
    scene.answers("settle", tool=calls[0])
    tell_what_became_of(ed.orchestrator, question, sources)
    wait_until(lambda: sources.till.paid(till) == 1, "the second payment has arrived")
    sources.till.restart()

    events += finish(ed.orchestrator, execution, events[-1].sequence)
    assert get(ed.orchestrator, execution).state == SUCCEEDED
    assert not {"tool_call_failed"} & set(kinds(events))
    assert (sources.desk.paid(desk), sources.till.paid(till)) == (1, 1)
    sources.retract(tina)


def _crew(scene: Scene) -> CrewSpec:
    spec = paying_crew(f"crew-{scene.mark}", f"Work on {scene.word('settle')}")
    spec.model = scene.crew("settle").model
    return spec


def _who(admin: Caller) -> str:
    request = tool_pb2.TestToolRequest(name="desk/who", arguments=Struct(), allow_side_effects=True)
    return str(json.loads(admin.orchestrator.tools.TestTool(request).result.structured_json)["result"])


def _parked(caller: Caller, execution: Execution) -> list[ExecutionEvent]:
    """Return an execution's events up to the one that says that it waits for a person."""
    events = []
    for event in caller.orchestrator.watch(execution.id):
        events.append(event)
        if event.HasField("execution_parked"):
            return events
    raise AssertionError(f"it ended without a question: {kinds(events)}")


def _search_memory_of_crews(installation: Installation, marked: MarkedSecrets, word: str) -> None:
    """Search the crew processes, the fork servers and the hosts; the crew's own `word` shows that it can be found."""
    hosts = installation.worker_hosts()
    crews = [crew for host in hosts for crew in crew_processes(host)]
    assert os.geteuid() != 0 or any(word.encode() in part for crew in crews for part in _memory(crew))
    searched = {process.pid: process for process in (*hosts, *(child for host in hosts for child in host.children()))}
    for process in (*searched.values(), *crews):
        assert {what for part in _memory(process) for what in marked.found_in(part)} == set(), process.cmdline()


def _memory(process: psutil.Process) -> Iterator[bytes]:
    """Yield what a process can write to, region by region."""
    regions = re.findall(r"(?m)^([0-9a-f]+)-([0-9a-f]+) rw", private_file(process.pid, "maps").decode())
    if not regions:  # nobody but root can read it, and this is not root
        return
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for begin, end in ((int(first, 16), int(last, 16)) for first, last in regions):
            memory.seek(begin)
            try:
                yield memory.read(end - begin)
            except OSError:  # a region that was given back meanwhile, or is the kernel's
                continue
