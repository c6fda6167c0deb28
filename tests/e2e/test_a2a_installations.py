"""Two installations with nothing in common have work done by each other over A2A, by TLS and with a token for each."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import grpc
import psutil
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub

from coxswain.auth.v1.secret_pb2 import PutSecretRequest
from coxswain.orchestrator.v1 import question_pb2, tool_source_pb2
from coxswain.orchestrator.v1.a2a_pb2 import A2ASkill, A2ASpec
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskSpec, ToolSpec
from coxswain.orchestrator.v1.execution_pb2 import Execution
from tests.e2e.support import MODEL, SUCCEEDED, Scene, finish, get, kinds, outputs
from tests.support.installation import Caller, wait_until
from tests.support.llm_script import Reply, ToolCall
from tests.support.sources_of_tools import accept, open_questions
from tests.support.suite_process import SuiteProcess

_GATEWAY = "services.orchestrator.tool_gateway"


@dataclass(frozen=True)
class Side:
    """An installation: its group, and what it has given to the other one."""

    suite: SuiteProcess
    group: str
    token: str
    """What the other one calls it with."""

    @property
    def admin(self) -> str:
        """Who keeps the group."""
        return f"dev:ann:{self.group}=admin"

    def publish(self, client: Caller) -> None:
        """Store a crew that others may call."""
        brief = TaskSpec(
            name="write",
            description="Write a brief about {topic}.",
            expected_output="A brief",
            agent="writer",
            human_approval=True,
        )
        skill = A2ASkill(id="brief", name="Brief", description="Writes a brief about a topic.")
        published = A2ASpec(published=True, is_default=True, text_input="topic", skills=[skill])
        writer = AgentSpec(name="writer", role="Writer", goal="Write what is asked for")
        client.orchestrator.apply_crew(
            CrewSpec(name="brief", model=MODEL, agents=[writer], tasks=[brief], a2a=published)
        )

    def order(self, client: Caller) -> None:
        """Store a crew that calls the other one."""
        clerk = AgentSpec(name="clerk", role="Clerk", goal="Get it", tools=[ToolSpec(name="partner/brief")])
        ask = TaskSpec(
            name="ask", description="Have a brief written about {topic}.", expected_output="The brief", agent="clerk"
        )
        client.orchestrator.apply_crew(CrewSpec(name="desk", model=MODEL, agents=[clerk], tasks=[ask]))

    def calls(self, client: Caller, other: "Side", token: str) -> tool_source_pb2.ToolSource:
        """Store the other one as a source of tools, with a token."""
        address = other.suite.address("orchestrator")
        put = PutSecretRequest(name="tools/partner", value=token, allowed_origins=[f"https://{address}"])
        client.auth.secrets.PutSecret(put)
        spec = tool_source_pb2.ToolSourceSpec(
            name="partner",
            a2a=tool_source_pb2.A2AAgent(address=address),
            secret=tool_source_pb2.SecretAuth(secret_name="tools/partner"),
        )
        request = tool_source_pb2.CreateToolSourceRequest(spec=spec)
        return client.orchestrator.tool_sources.CreateToolSource(request).source

    def tasks(self, token: str) -> list[pb.Task]:
        """Return the tasks that a token shows."""
        with self.suite.channel("orchestrator") as channel:
            stub = cast("Any", A2AServiceStub)(channel)
            metadata = (("authorization", f"Bearer {token}"), ("a2a-version", "1.0"))
            return list(stub.ListTasks(pb.ListTasksRequest(), metadata=metadata).tasks)

    def task(self, topic: str, wanted: str) -> pb.Task:
        """Wait until there is one task about a topic, in a state."""
        found: list[pb.Task] = []

        def there() -> bool:
            found[:] = [task for task in self.tasks(self.token) if topic in str(task.history)]
            return [pb.TaskState.Name(task.status.state) for task in found] == [f"TASK_STATE_{wanted}"]

        wait_until(there, f"one task about {topic} is {wanted}", 120)
        return found[0]

    def gateway(self) -> psutil.Process | None:
        """Return the living tool gateway."""
        return next((one for one in psutil.Process(self._pid).children() if _GATEWAY in _words(one)), None)

    def kill_gateway(self) -> None:
        """SIGKILL it, and wait until there is another one."""
        gateway = self.gateway()
        assert gateway is not None
        gateway.kill()
        wait_until(lambda: self.gateway() not in {None, gateway}, "there is another gateway")

    @property
    def _pid(self) -> int:
        assert self.suite.process is not None
        return self.suite.process.pid


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, model_environment: dict[str, str]) -> Iterator[tuple[Side, Side]]:
    """Two that run, each with an authority, a data directory and a group of its own, which the other one knows."""
    directory = tmp_path_factory.mktemp("installations")
    made = []
    for name, other in (("ours", "theirs"), ("theirs", "ours")):
        environment = model_environment | {"SSL_CERT_FILE": str(directory / other / "tls" / "ca.pem")}
        suite = SuiteProcess(
            directory / name / "data", workers=1, environment=environment, certificates=directory / name / "tls"
        )
        made.append(Side(suite, f"group-{name}", f"dev:visitor-of-{name}:group-{name}=editor"))
    ours, theirs = made
    with ExitStack() as stack:
        for side in made:
            stack.enter_context(side.suite.running())
        for side in made:
            with side.suite.caller(side.admin) as admin:
                side.publish(admin)
        for side, other_side in ((ours, theirs), (theirs, ours)):
            with side.suite.caller(side.admin) as admin:
                source = side.calls(admin, other_side, other_side.token)
                assert (source.list_error, source.tool_count) == ("", 1)
                side.order(admin)
        yield ours, theirs


@pytest.fixture
def script(scene: Scene) -> str:
    """Script the models of both; return the topic."""
    topic = scene.word("ships")
    asking = ToolCall(name="partner_brief", arguments={"message": topic})
    scene.llm.on(
        Reply(text=f"It says: a brief about {topic}."), route="chat", contains="Have a brief", last_role="tool"
    )
    scene.llm.on(Reply(tool_calls=[asking]), route="chat", contains="Have a brief")
    return topic


def _writes(scene: Scene, topic: str, *, hang: bool = False) -> None:
    reply = Reply(text=f"A brief about {topic}.", hang=hang)
    scene.llm.on(reply, route="chat", contains=f"Write a brief about {topic}")


def _asked(caller: Caller, execution: Execution) -> question_pb2.Question:
    """Wait for what an execution asks people."""
    found: list[question_pb2.Question] = []

    def there() -> bool:
        found[:] = open_questions(caller.orchestrator, execution)
        return bool(found)

    wait_until(there, "it asks a person", 120)
    return found[0]


@pytest.mark.parametrize("back", [False, True], ids=["out", "back"])
def test_a_crew_of_one_installation_has_a_crew_of_the_other_work(
    sides: tuple[Side, Side], scene: Scene, script: str, back: bool
) -> None:
    caller, callee = reversed(sides) if back else sides
    _writes(scene, script)
    with caller.suite.caller(caller.admin) as ann:
        execution = ann.orchestrator.start("desk", {"topic": script})
        question = _asked(ann, execution)
        assert f"A brief about {script}." in question.text
        callee.task(script, "INPUT_REQUIRED")
        accept(ann.orchestrator, question, {"approved": True})
        events = finish(ann.orchestrator, execution)
        ended = get(ann.orchestrator, execution)
        assert ended.state == SUCCEEDED, ended.error
        assert [run.output.text for run in outputs(ann.orchestrator, execution)] == [
            f"It says: a brief about {script}."
        ]
    (completed,) = [event.tool_call_completed for event in events if event.HasField("tool_call_completed")]
    assert completed.output == f"A brief about {script}."
    task = callee.task(script, "COMPLETED")
    # Neither learns of the other more than the message and the answers.
    assert not {caller.group, "ann"} & set(str(task).replace('"', " ").split())
    assert all(task.id != execution.id for task in callee.tasks(callee.token))
    assert not callee.tasks("dev:stranger:others=admin")
    assert not [one for one in caller.tasks(caller.token) if script in str(one)]


def test_a_token_of_the_one_is_none_of_the_other(sides: tuple[Side, Side]) -> None:
    ours, theirs = sides
    with ours.suite.caller("dev:eve:elsewhere=admin") as eve:
        # It is one for her own installation.
        source = ours.calls(eve, theirs, "not-a-token")
    assert "credential" in source.list_error, source.list_error
    with pytest.raises(grpc.RpcError) as refused:
        theirs.tasks("not-a-token")
    assert cast("Any", refused.value).code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_gateway_that_is_killed_in_the_middle_of_a_call_has_the_agent_work_once(
    sides: tuple[Side, Side], scene: Scene, script: str
) -> None:
    ours, theirs = sides
    _writes(scene, script, hang=True)
    with ours.suite.caller(ours.admin) as ann:
        execution = ann.orchestrator.start("desk", {"topic": script})
        theirs.task(script, "WORKING")
        wait_until(lambda: bool(_hanging(scene, script)), "the agent's model is asked")
        ours.kill_gateway()
        scene.llm.release()
        question = _asked(ann, execution)
        # Once more while a person is asked: by now nobody holds the call but the agent.
        ours.kill_gateway()
        accept(ann.orchestrator, question, {"approved": True})
        events = finish(ann.orchestrator, execution)
        ended = get(ann.orchestrator, execution)
        assert ended.state == SUCCEEDED, ended.error
    happened = kinds(events)
    assert [happened.count(f"tool_call_{kind}") for kind in ("started", "completed", "failed")] == [1, 1, 0], happened
    assert "tool_outcome_unknown" not in happened
    task = theirs.task(script, "COMPLETED")
    assert [pb.Role.Name(message.role) for message in task.history] == ["ROLE_USER", "ROLE_AGENT", "ROLE_USER"]


def _hanging(scene: Scene, topic: str) -> list[Any]:
    return [call for call in scene.llm.calls_where(route="chat") if call.hanging and topic in str(call.body)]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
