"""Crews whose tools reach the world: real worker hosts and crew processes before a played gateway."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2, question_pb2, question_state_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from services.common.ids import new_id
from services.orchestrator.domain.tool_source import (
    ApprovalRule,
    ListedTool,
    McpServer,
    SourceKind,
    ToolPolicy,
    ToolSource,
    ToolSourceSpec,
)
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.usecases.tool_lists import accepted_tools
from tests.integration.worker.installation import CAPABLE, Installation, install, is_kind, kinds
from tests.support.harness import ALICE
from tests.support.llm_script import Reply, ToolCall
from tests.support.played_gateway import PlayedCall, PlayedGateway, result, unknown
from tests.support.waiting import until

S = execution_pb2
K = question_state_pb2
pytestmark = pytest.mark.asyncio(loop_scope="module")

AMOUNT = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}


class Shop:
    """An installation whose group has a source of tools."""

    def __init__(self, installation: Installation, gateway: PlayedGateway) -> None:
        self.installation = installation
        self.gateway = gateway
        self.outcomes: list[pb.ToolOutcome] = []
        """What calls lead to, in order; those after them are paid."""
        self.release = asyncio.Event()
        self.release.set()
        gateway.tools |= {"billing/pay": self.pay, "billing/order": self.pay}

    async def pay(self, call: PlayedCall) -> pb.ToolOutcome:
        self.gateway.did(call)
        await self.release.wait()
        return self.outcomes.pop(0) if self.outcomes else result(f"paid {call.request.arguments_json}")

    def script(self, *amounts: int, then: str = "Settled.", tool: str = "billing_pay") -> None:
        """Have the model pay these amounts in one answer, and then end the task."""
        llm = self.installation.llm
        llm.on(Reply(text=then), last_role="tool")
        calls = [ToolCall(name=tool, arguments={"amount": amount}) for amount in amounts]
        llm.on(Reply(tool_calls=calls), last_contains="Settle the invoices.")
        llm.on(Reply(text="Looked."), last_contains="Look around.")

    @property
    def inbox(self) -> Any:
        return QuestionServiceStub(self.installation.harness.channel(ALICE))

    async def asked(self, execution_id: str) -> list[question_pb2.Question]:
        """Wait until an execution is parked with questions, and return those that are open."""
        await self.installation.watch(execution_id, is_kind("execution_parked"))
        request = question_pb2.ListQuestionsRequest(execution_id=execution_id, states=[K.QUESTION_STATE_OPEN])
        return list((await self.inbox.ListQuestions(request)).questions)

    async def accept(self, question: question_pb2.Question, content: Any = None) -> None:
        request = question_pb2.AnswerQuestionRequest(id=question.id, accept=question_pb2.AcceptQuestion())
        if content is not None:
            request.accept.content.struct_value.update(content)
        await self.inbox.AnswerQuestion(request)


def crew(tools: Sequence[str] = ("billing/pay",), *, look: bool = False, **task: Any) -> crew_pb2.CrewSpec:
    tasks = [
        crew_pb2.TaskSpec(
            name="settle", description="Settle the invoices.", expected_output="Words", agent="clerk", **task
        )
    ]
    if look:
        tasks[0].async_execution = True
        tasks += [
            crew_pb2.TaskSpec(
                name=name,
                description="Look around.",
                expected_output="Words",
                agent="clerk",
                async_execution=name == "look",
            )
            for name in ("look", "end")
        ]
    agent = crew_pb2.AgentSpec(
        name="clerk", role="Clerk", goal="Pay", tools=[crew_pb2.ToolSpec(name=name) for name in tools]
    )
    return crew_pb2.CrewSpec(name="shop", model=CAPABLE, agents=[agent], tasks=tasks)


async def add_source(installation: Installation) -> None:
    """Add a source whose tools the played gateway calls."""
    spec = ToolSourceSpec(
        name="billing",
        kind=SourceKind.MCP,
        endpoint=McpServer("https://example.com/mcp"),
        policies=(ToolPolicy("order", approval=ApprovalRule.WHEN, approval_condition="arguments.amount > 10"),),
    )
    tools = (ListedTool(name, f"Does {name}.", AMOUNT, hash=f"hash of {name}") for name in ("order", "pay"))
    await add_tools(installation, spec, *tools)


async def add_tools(installation: Installation, spec: ToolSourceSpec, *tools: ListedTool) -> None:
    """Store a source as it is after it was listed."""
    now = datetime.now(UTC)
    source = ToolSource(
        id=new_id(),
        group_id="sales",
        revision=1,
        spec=spec,
        tools=tools,
        created_at=now,
        updated_at=now,
        listed_at=now,
        checked_at=now,
        list_revision=1,
        tool_count=len(tools),
        accepted=accepted_tools(tools),
    )
    async with installation.database.write() as connection:
        await ToolSourceRepository(connection).insert(source, "ann")
        await ToolSourceRepository(connection).add_list(source, now)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everything(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Installation, PlayedGateway]]:
    async with PlayedGateway() as gateway:
        environment = {"COXSWAIN_TOOLS_ADDRESS": gateway.address, "COXSWAIN_WORKER_PEER_RETRY_SECONDS": "20"}
        async with install(tmp_path_factory.mktemp("shop"), **environment) as running:
            await add_source(running)
            yield running, gateway


@pytest_asyncio.fixture(loop_scope="module")
async def shop(everything: tuple[Installation, PlayedGateway]) -> AsyncIterator[Shop]:
    installation, gateway = everything
    await installation.hosts(1)
    gateway.calls.clear()
    gateway.effects.clear()
    gateway.requests.clear()
    made = Shop(installation, gateway)
    yield made
    made.release.set()
    installation.llm.clear_rules()
    installation.llm.clear_log()


async def test_an_unknown_outcome_waits_for_a_person_without_a_worker_while_other_tasks_finish(shop: Shop) -> None:
    shop.script(1, 2)
    shop.outcomes = [unknown("the connection ended before an answer came")]
    execution = await shop.installation.start(crew(look=True))
    [question] = await shop.asked(execution.id)
    await until(lambda: not any(worker.crew_processes() for worker in shop.installation.workers))
    settle, look, _ = await shop.installation.tasks(execution.id)
    assert (settle.state, look.state) == (S.TASK_STATE_WAITING_FOR_ANSWER, S.TASK_STATE_SUCCEEDED)
    assert question.kind == K.QUESTION_KIND_OUTCOME_UNKNOWN
    assert (question.call.tool_name, question.call.source, question.call.agent_role) == (
        "billing/pay",
        "billing",
        "Clerk",
    )
    assert question.call.observation == "the connection ended before an answer came"
    # The other call of the same answer was made meanwhile.
    assert sorted(shop.gateway.effects.values()) == [1, 1]

    with pytest.raises(grpc.aio.AioRpcError, match="must say what you have found out"):
        await shop.accept(question)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await shop.accept(question, {"happened": True})
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    await shop.accept(question, {"happened": True, "result": "receipt 7"})
    ended = await shop.installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    told = [str(call.body) for call in shop.installation.llm.calls_where(route="chat")]
    assert sum("receipt 7" in text for text in told) == 1
    assert sorted(shop.gateway.effects.values()) == [1, 1]
    assert ended.usage.tool_calls == 2
    assert sum("Settle the invoices." in text for text in told) == 2, "replayed from the journal up to the very call"
    events = kinds(await shop.installation.watch(execution.id))
    assert events.count("tool_outcome_unknown") == 1
    assert "tool_call_failed" not in events


async def test_a_call_that_a_person_approves_is_made_with_the_arguments_they_have_changed(shop: Shop) -> None:
    shop.script(500, tool="billing_order")
    execution = await shop.installation.start(crew(["billing/*"]))
    [question] = await shop.asked(execution.id)
    assert question.kind == K.QUESTION_KIND_TOOL_APPROVAL
    assert json.loads(question.call.arguments_json) == {"amount": 500}
    assert not question.call.HasField("begin_time")
    assert shop.gateway.requests == []
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await shop.accept(question, {"decision": "call_edited", "arguments": {"amount": "ten"}})
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError):
        await shop.accept(question, {"decision": "call_edited"})
    await shop.accept(question, {"decision": "call_edited", "arguments": {"amount": 5}})
    assert (await shop.installation.finished(execution.id)).state == S.EXECUTION_STATE_SUCCEEDED
    [request] = shop.gateway.requests
    assert json.loads(request.arguments_json) == {"amount": 5}
    assert "A person changed the arguments" in str(shop.installation.llm.calls_where(route="chat")[-1].body)


async def test_the_host_that_makes_a_call_is_killed_and_the_next_one_takes_its_result(shop: Shop) -> None:
    shop.script(1, 2, 3)
    shop.release.clear()
    execution = await shop.installation.start(crew())
    await until(lambda: len(shop.gateway.effects) == 3)
    [host] = shop.installation.workers
    host.kill()
    await host.ended()
    await shop.installation.hosts(1)
    await until(lambda: len(shop.gateway.requests) == 6)
    shop.release.set()
    ended = await shop.installation.finished(execution.id)
    assert (ended.state, ended.claims, ended.usage.tool_calls) == (S.EXECUTION_STATE_SUCCEEDED, 2, 3)
    assert list(shop.gateway.effects.values()) == [1, 1, 1]
    assert [request.begun_before for request in shop.gateway.requests] == [False] * 3 + [True] * 3
    assert not any(len(token) == 0 for token in shop.gateway.principals)


async def test_a_cancelled_call_of_unknown_outcome_is_asked_about_by_the_execution_that_continues(shop: Shop) -> None:
    shop.script(1)
    shop.release.clear()
    execution = await shop.installation.start(crew())
    await until(lambda: len(shop.gateway.effects) == 1)
    executions = shop.installation.executions()
    await executions.CancelExecution(S.CancelExecutionRequest(id=execution.id))
    ended = await shop.installation.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_CANCELLED
    assert kinds(await shop.installation.watch(execution.id)).count("tool_outcome_unknown") == 1
    shop.release.set()
    # Two that continue it may both call again: it is one call.
    continued = [
        (await executions.ResumeExecution(S.ResumeExecutionRequest(id=execution.id))).execution,
        (await executions.ForkExecution(S.ForkExecutionRequest(id=execution.id))).execution,
    ]
    for following in continued:
        [question] = await shop.asked(following.id)
        assert question.kind == K.QUESTION_KIND_OUTCOME_UNKNOWN
        assert question.call.observation
        await shop.accept(question, {"happened": False})
    for following in continued:
        assert (await shop.installation.finished(following.id)).state == S.EXECUTION_STATE_SUCCEEDED
    assert sorted(shop.gateway.effects.values()) == [1, 1], "once before, and once after both answers"


async def test_what_was_paid_is_not_paid_again_by_an_execution_that_starts_the_task_over(shop: Shop) -> None:
    shop.installation.llm.on(Reply(text="No JSON."), last_role="tool")
    shop.installation.llm.on(Reply(text="No JSON either."), last_contains="does not follow the JSON schema")
    shop.script(1, 2)
    schema: dict[str, Any] = {"type": "object", "properties": {"paid": {"type": "integer"}}, "required": ["paid"]}
    spec = crew()
    spec.tasks[0].output_schema.update(schema)
    execution = await shop.installation.start(spec)
    failed = await shop.installation.finished(execution.id)
    assert (failed.state, failed.error.reason) == (S.EXECUTION_STATE_FAILED, "TASK_FAILED")
    shop.installation.llm.clear_rules()
    shop.script(1, 2, then='{"paid": 2}')
    resume = S.ResumeExecutionRequest(id=execution.id)
    resumed = (await shop.installation.executions().ResumeExecution(resume)).execution
    ended = await shop.installation.finished(resumed.id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED
    assert list(shop.gateway.effects.values()) == [1, 1]
    events = await shop.installation.watch(resumed.id)
    assert [e.tool_call_completed.replayed for e in events if is_kind("tool_call_completed")(e)] == [True, True]


async def test_of_two_calls_that_wait_each_goes_on_with_its_own_answer(shop: Shop) -> None:
    shop.script(500, 600, tool="billing_order")
    execution = await shop.installation.start(crew(["billing/order"]))
    parked = await shop.installation.watch(execution.id, is_kind("execution_parked"))
    request = question_pb2.ListQuestionsRequest(execution_id=execution.id)
    first, second = (await shop.inbox.ListQuestions(request)).questions
    assert {first.kind, second.kind} == {K.QUESTION_KIND_TOOL_APPROVAL}
    await shop.accept(first)
    await shop.installation.watch(execution.id, is_kind("execution_parked"), after=parked[-1].sequence)
    assert list(shop.gateway.effects.values()) == [1], "the first one did not wait for the other answer"
    declined = question_pb2.DeclineQuestion(reason="not before Monday")
    await shop.inbox.AnswerQuestion(question_pb2.AnswerQuestionRequest(id=second.id, decline=declined))
    assert (await shop.installation.finished(execution.id)).state == S.EXECUTION_STATE_SUCCEEDED
    assert list(shop.gateway.effects.values()) == [1]
    assert "not before Monday" in str(shop.installation.llm.calls_where(route="chat")[-1].body)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await shop.accept(second)
    assert late.value.code() == grpc.StatusCode.FAILED_PRECONDITION
