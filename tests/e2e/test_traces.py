"""One execution is one trace, from its caller to the model's upstream, whatever happens to its hosts."""

import secrets
from collections import Counter
from collections.abc import Iterator

import pytest

from coxswain.auth.v1.group_pb2 import ListMembersRequest
from coxswain.client import Client
from coxswain.orchestrator.v1.crew_pb2 import CreateCrewRequest, CrewSpec
from coxswain.orchestrator.v1.execution_pb2 import Execution, StartExecutionRequest
from coxswain.orchestrator.v1.tool_source_pb2 import CreateToolSourceRequest, HttpApi, ToolSourceSpec
from tests.e2e.support import MODEL, Scene, finish, get, kinds
from tests.support.installation import Caller, busy_host, wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import ToolCall
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.support.sources_of_tools import accept, open_questions
from tests.support.suite_process import SuiteProcess

_START = "coxswain.orchestrator.v1.ExecutionService/StartExecution"
_EXECUTE_TOOL_CALL = "coxswain.orchestrator.v1.ToolGatewayService/ExecuteToolCall"
_STREAM_COMPLETE = "coxswain.models.v1.InferenceService/StreamComplete"


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, collector: OtlpReceiver, model_environment: dict[str, str]
) -> Iterator[SuiteProcess]:
    """An installation that sends traces, and lets the model's upstream continue them."""
    environment = model_environment | collector.environment | {"COXSWAIN_TRACE_UPSTREAMS": '["127.0.0.1"]'}
    with SuiteProcess(tmp_path_factory.mktemp("traced") / "data", environment=environment).running() as suite:
        yield suite


@pytest.fixture
def alice(traced: SuiteProcess) -> Iterator[Caller]:
    with traced.caller("dev:alice:sales=admin") as caller:
        yield caller


class Start:
    """An execution that a caller has started within a trace of its own."""

    def __init__(self, client: Client, spec: CrewSpec) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        crew = client.crews.CreateCrew(CreateCrewRequest(spec=spec)).crew
        self.execution: Execution = client.executions.StartExecution(
            StartExecutionRequest(crew_id=crew.id),
            metadata=(("traceparent", f"00-{self.trace_id}-{self.span_id}-01"),),
        ).execution

    def spans(self, collector: OtlpReceiver, *expected: str) -> list[ReceivedSpan]:
        """Wait until spans of these names have come, from whichever process, and return the trace."""

        def complete() -> bool:
            return not Counter(expected) - Counter(_names(collector.trace(self.trace_id)))

        wait_until(complete, "the spans of the execution have come")
        return collector.trace(self.trace_id)


def _names(spans: list[ReceivedSpan]) -> list[str]:
    return [span.name for span in spans]


def _one(spans: list[ReceivedSpan], name: str, **attributes: object) -> ReceivedSpan:
    [found] = [
        span
        for span in spans
        if span.name == name and all(span.attributes.get(key) == value for key, value in attributes.items())
    ]
    return found


def _path(spans: list[ReceivedSpan], leaf: ReceivedSpan) -> list[str]:
    """Return the names of the spans from the caller's down to `leaf`."""
    by_id = {span.span_id: span for span in spans}
    path = [leaf.name]
    while (parent := by_id.get(leaf.parent_id)) is not None:
        path.insert(0, parent.name)
        leaf = parent
    return path


def _make_source(client: Client, llm: LlmEmulator) -> None:
    """Make a source of one tool, which asks the emulator."""
    source = ToolSourceSpec(name="shop", http=HttpApi(base_url=llm.url))
    look = source.http.operations.add(name="look", description="Looks.", method="GET", path="/v1/models/{id}")
    look.arguments_schema.update({"type": "object", "properties": {"id": {"type": "string"}}})
    client.tool_sources.CreateToolSource(CreateToolSourceRequest(spec=source))


def test_an_execution_is_one_trace_from_its_caller_to_the_upstream(
    alice: Caller, collector: OtlpReceiver, llm: LlmEmulator
) -> None:
    scene = Scene(llm)
    _make_source(alice.orchestrator, llm)
    count = ToolCall(name="text_statistics", arguments={"text": "a secret-text"})
    ask = ToolCall(name="shop_look", arguments={"id": "secret-text"})
    scene.answers("look", tool=count, last_role="user")
    scene.answers("look", tool=ask, times=1)
    scene.answers("look", "It was looked at.")
    spec = scene.crew("look")
    for tool in ("text_statistics", "shop/look"):
        spec.agents[0].tools.add(name=tool)
    start = Start(alice.orchestrator, spec)
    assert kinds(finish(alice.orchestrator, start.execution))[-1] == "execution_succeeded"

    spans = start.spans(collector, _START, "run execution", "GET", "call tool", "call tool", "POST", "POST", "POST")
    served = _one(spans, _START)
    assert (served.parent_id, served.kind, served.service) == (start.span_id, "SERVER", "suite")
    run = _one(spans, "run execution")
    assert (run.service, run.kind, run.failed) == ("worker", "CONSUMER", False)
    assert run.attributes["coxswain.execution.id"] == start.execution.id
    assert run.attributes["coxswain.execution.state"] == "SUCCEEDED"
    assert _path(spans, run) == [_START, "queue execution", "run execution"]

    upstream = [call.headers["traceparent"].split("-") for call in scene.calls("look")]
    requests = [span for span in spans if span.name == "POST"]
    assert [(version, trace, flags) for version, trace, _, flags in upstream] == [("00", start.trace_id, "01")] * 3
    assert [span_id for _, _, span_id, _ in upstream] == [span.span_id for span in requests]
    below_run = [_START, "queue execution", "run execution", "run task"]
    for request in requests:
        model = MODEL.partition("/")[2]
        assert _path(spans, request) == [*below_run, "call model", _STREAM_COMPLETE, f"chat {model}", "POST"]
        assert request.attributes["server.address"] == "127.0.0.1"
        assert request.attributes["http.response.status_code"] == 200
    chat = next(span for span in spans if span.name.startswith("chat "))
    assert chat.kind == "CLIENT"
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.provider.name"] == "openai"
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    assert chat.attributes["gen_ai.usage.output_tokens"] > 0
    assert _path(spans, _one(spans, "call tool", **{"coxswain.tool": "text_statistics"})) == [*below_run, "call tool"]
    tool_path = [*below_run, "call tool", _EXECUTE_TOOL_CALL, "execute_tool shop/look", "GET"]
    assert _path(spans, _one(spans, "GET")) == tool_path
    assert _one(spans, "execute_tool shop/look").service == "tools"

    told = [f"{span.name} {span.attributes}" for span in collector.spans()]
    for private in ("secret-text", "looked at", "alice", scene.mark, "Seasoned"):
        assert not [line for line in told if private in line]


def test_a_host_that_takes_over_continues_the_trace(
    alice: Caller, traced: SuiteProcess, collector: OtlpReceiver, llm: LlmEmulator
) -> None:
    scene = Scene(llm)
    scene.answers("first", "First result.")
    scene.answers("second", "Second result.", hang=True, times=1)
    scene.answers("second", "Second result.")
    start = Start(alice.orchestrator, scene.crew("first", "second"))
    scene.wait_until_hanging("second")
    events = alice.orchestrator.watch(start.execution.id)
    next(event for event in events if event.HasField("task_started") and event.task_name == "second")
    wait_until(lambda: "run task" in _names(collector.trace(start.trace_id)), "the first task has been told")
    host, _ = busy_host(traced)

    host.kill()
    assert kinds(finish(alice.orchestrator, start.execution))[-1] == "execution_succeeded"

    assert get(alice.orchestrator, start.execution).claims == 2
    spans = start.spans(collector, _START, "run execution", "run task", "run task")
    run = _one(spans, "run execution")
    assert run.attributes["coxswain.execution.claim"] == 2
    assert _path(spans, run) == [_START, "queue execution", "run execution"]
    # What the host that died had open is missing, and what had ended by then is there.
    first, second = (_one(spans, "run task", **{"coxswain.task.index": index}) for index in (0, 1))
    assert first.parent_id != run.span_id
    assert second.parent_id == run.span_id
    assert second.attributes["coxswain.task.attempt"] == 2


def test_what_a_person_lets_go_on_is_the_same_trace(alice: Caller, collector: OtlpReceiver, llm: LlmEmulator) -> None:
    scene = Scene(llm)
    scene.answers("draft", "A draft.")
    spec = scene.crew("draft")
    spec.tasks[0].human_approval = True
    client = alice.orchestrator
    start = Start(client, spec)
    wait_until(lambda: bool(get(client, start.execution).open_question_ids), "a person is asked")
    start.spans(collector, "run execution")
    (question,) = open_questions(client, start.execution)
    accept(client, question)
    assert kinds(finish(client, start.execution))[-1] == "execution_succeeded"

    spans = start.spans(collector, _START, "run execution", "run execution")
    runs = [span for span in spans if span.name == "run execution"]
    assert [
        (run.attributes["coxswain.execution.claim"], run.attributes["coxswain.execution.state"]) for run in runs
    ] == [
        (1, "WAITING_FOR_ANSWER"),
        (2, "SUCCEEDED"),
    ]
    assert not any(span.failed for span in spans)
    assert {run.parent_id for run in runs} == {_one(spans, "queue execution").span_id}


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "odd",
        "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
        "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "1" * 32 + "-" + "1" * 16 + "-01-more",
        "01-" + "1" * 32 + "-" + "1" * 16 + "-01-" + "x" * 6000,
        "00-" + "A" * 32 + "-" + "1" * 16 + "-01",
    ],
)
def test_what_names_no_trace_is_ignored(alice: Caller, collector: OtlpReceiver, traceparent: str) -> None:
    method = "coxswain.auth.v1.GroupService/ListMembers"
    before = len(collector.spans(lambda span: span.name == method))
    alice.auth.groups.ListMembers(ListMembersRequest(), metadata=(("traceparent", traceparent),))
    wait_until(lambda: len(collector.spans(lambda span: span.name == method)) > before, "its span has come")
    assert collector.spans(lambda span: span.name == method)[-1].parent_id == ""
