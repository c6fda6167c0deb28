"""Crews call agents over A2A: a crew of one group works for a crew of another, as for another installation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from a2a.types import a2a_pb2 as a2a

from coxswain.orchestrator.v1 import (
    a2a_pb2,
    crew_pb2,
    execution_pb2,
    question_pb2,
    question_state_pb2,
    tool_pb2,
    tool_source_pb2,
)
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import ToolSourceServiceStub
from services.common.grpc.json_values import from_struct
from tests.integration.orchestrator.a2a_support import agent, state
from tests.integration.worker.installation import CAPABLE, Installation, install_with_tools, is_kind
from tests.support.harness import ALICE
from tests.support.llm_script import Reply, ToolCall

PEER = "dev:dev:default=admin"
"""Who calls without a credential in development."""
S = execution_pb2
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Partners:
    """A group with a crew that calls an agent, and the group whose crew that agent is."""

    def __init__(self, installation: Installation, tenant: str) -> None:
        self.installation = installation
        self.tenant = tenant

    @property
    def peer(self) -> Any:
        return agent(self.installation.harness, PEER)

    async def peer_tasks(self, topic: str) -> list[a2a.Task]:
        """The tasks of the agent that are about a topic."""
        tasks = (await self.peer.ListTasks(a2a.ListTasksRequest(tenant=self.tenant))).tasks
        return [task for task in tasks if topic in str(task.history)]

    async def peer_task(self, topic: str, wanted: str) -> a2a.Task:
        """Wait until the agent has one task about a topic, in a state."""
        async with asyncio.timeout(60):
            while True:
                tasks = await self.peer_tasks(topic)
                if [state(task) for task in tasks] == [wanted]:
                    return tasks[0]
                await asyncio.sleep(0.05)

    async def start(self, topic: str) -> str:
        """Start the crew that asks for a brief about a topic; return the execution's id."""
        llm = self.installation.llm
        llm.on(Reply(text="Passed on."), last_role="tool")
        asking = ToolCall(name="partner_brief", arguments={"message": topic})
        llm.on(Reply(tool_calls=[asking]), last_contains="Ask the partner.")
        asker = crew_pb2.AgentSpec(name="clerk", role="Clerk", goal="Ask", tools=[crew_pb2.ToolSpec(name="partner/*")])
        task = crew_pb2.TaskSpec(name="ask", description="Ask the partner.", expected_output="Words", agent="clerk")
        spec = crew_pb2.CrewSpec(name="desk", model=CAPABLE, agents=[asker], tasks=[task])
        return (await self.installation.start(spec)).id

    async def question(self, execution_id: str) -> question_pb2.Question:
        """Wait until an execution is parked, and return its question."""
        await self.installation.watch(execution_id, is_kind("execution_parked"))
        request = question_pb2.ListQuestionsRequest(
            execution_id=execution_id, states=[question_state_pb2.QUESTION_STATE_OPEN]
        )
        found: question_pb2.ListQuestionsResponse = await self.inbox.ListQuestions(request)
        (question,) = found.questions
        return question

    @property
    def inbox(self) -> Any:
        return QuestionServiceStub(self.installation.harness.channel(ALICE))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def partners(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Partners]:
    async with install_with_tools(tmp_path_factory.mktemp("partners")) as installation:
        # It takes longer than all the rest here.
        hosts = asyncio.create_task(installation.hosts(1))
        writer = crew_pb2.AgentSpec(name="writer", role="Writer", goal="Write")
        task = crew_pb2.TaskSpec(
            name="write",
            description="Write a brief about {topic}.",
            expected_output="A brief",
            agent="writer",
            human_approval=True,
        )
        published = a2a_pb2.A2ASpec(
            published=True,
            text_input="topic",
            skills=[a2a_pb2.A2ASkill(id="brief", name="Brief", description="Briefs.")],
        )
        spec = crew_pb2.CrewSpec(name="brief", model=CAPABLE, agents=[writer], tasks=[task], a2a=published)
        theirs = installation.crews(PEER)
        await theirs.CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
        (listed,) = (await theirs.ListPublications(a2a_pb2.ListPublicationsRequest())).publications
        source = tool_source_pb2.ToolSourceSpec(
            name="partner",
            a2a=tool_source_pb2.A2AAgent(address=installation.harness.address, tenant=listed.tenant, plaintext=True),
        )
        stub = ToolSourceServiceStub(installation.harness.channel(ALICE))
        created = (await stub.CreateToolSource(tool_source_pb2.CreateToolSourceRequest(spec=source))).source
        assert (created.list_error, created.tool_count) == ("", 1)
        await hosts
        yield Partners(installation, listed.tenant)


@pytest.fixture(autouse=True)
def script(partners: Partners) -> None:
    partners.installation.llm.clear_rules()


async def test_the_skills_of_an_agent_are_tools_of_the_group(partners: Partners) -> None:
    channel = partners.installation.harness.channel(ALICE)
    listed = await ToolServiceStub(channel).ListTools(tool_pb2.ListToolsRequest(source="partner"))
    (tool,) = listed.tools
    assert (tool.name, tool.idempotent, tool.problem) == ("partner/brief", False, "")
    steps = [
        (one.step, one.ok, one.message)
        async for one in ToolSourceServiceStub(channel).CheckToolSource(
            tool_source_pb2.CheckToolSourceRequest(name="partner")
        )
    ]
    assert [ok for _, ok, _ in steps] == [True] * 4, steps
    assert steps[-1][2] == "1 tools"


async def test_the_agent_is_asked_once_although_hosts_are_killed_and_a_person_of_the_caller_answers_it(
    partners: Partners,
) -> None:
    installation = partners.installation
    brief = "Write a brief about ships"
    installation.llm.on(Reply(text="A brief about ships.", hang=True), contains=brief)
    (host,) = await installation.hosts(1)
    execution_id = await partners.start("ships")
    await partners.peer_task("ships", "WORKING")
    await installation.watch(execution_id, is_kind("tool_call_started"))
    host.kill()
    await host.ended()
    installation.llm.release()
    installation.llm.clear_rules()
    installation.llm.on(Reply(text="A brief about ships."), contains=brief)
    installation.llm.on(Reply(text="Passed on."), last_role="tool")
    await installation.hosts(1)
    question = await partners.question(execution_id)
    assert question.kind == question_state_pb2.QUESTION_KIND_FORM
    assert "A brief about ships." in question.text
    assert set(from_struct("schema", question.schema)["properties"]) == {"approved", "feedback"}
    await partners.peer_task("ships", "INPUT_REQUIRED")
    answer = question_pb2.AnswerQuestionRequest(id=question.id, accept=question_pb2.AcceptQuestion())
    answer.accept.content.struct_value.update({"approved": True})
    await partners.inbox.AnswerQuestion(answer)
    ended = await installation.finished(execution_id)
    events = await installation.watch(execution_id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED, events
    (completed,) = [one.tool_call_completed for one in events if is_kind("tool_call_completed")(one)]
    assert completed.output == "A brief about ships."
    # One task, which `peer_task` makes sure of.
    task = await partners.peer_task("ships", "COMPLETED")
    assert [a2a.Role.Name(message.role) for message in task.history] == ["ROLE_USER", "ROLE_AGENT", "ROLE_USER"]
    assert "alice" not in str(task)
    assert ended.usage.tool_calls == 1


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_execution_cancels_the_task_of_the_agent(partners: Partners, waits: bool) -> None:
    installation, topic = partners.installation, f"bridges {waits}"
    installation.llm.on(Reply(text=f"A brief about {topic}.", hang=not waits), contains=f"Write a brief about {topic}")
    await installation.hosts(1)
    execution_id = await partners.start(topic)
    if waits:
        await partners.question(execution_id)
    else:
        await partners.peer_task(topic, "WORKING")
        await installation.watch(execution_id, is_kind("tool_call_progress"))
    await installation.executions().CancelExecution(execution_pb2.CancelExecutionRequest(id=execution_id))
    await partners.peer_task(topic, "CANCELED")
    installation.llm.release()
    await installation.finished(execution_id)
