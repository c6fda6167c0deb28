"""What becomes of results that people have to approve: real worker hosts and crew processes, answers over real gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from a2a.client import ClientCallContext, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as a2a
from google.protobuf.duration_pb2 import Duration

from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.orchestrator.v1 import a2a_pb2, crew_pb2, execution_pb2, question_pb2, question_state_pb2
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from tests.integration.client.command_line import Run
from tests.integration.orchestrator.a2a_support import stub_of
from tests.integration.worker.installation import (
    CAPABLE,
    WAIT_SECONDS,
    Installation,
    install,
    is_kind,
    kinds,
)
from tests.support.child_process import ROOT
from tests.support.harness import ALICE
from tests.support.llm_script import Reply, ToolCall
from tests.support.waiting import until

S = execution_pb2
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """An installation that does its housekeeping often."""
    async with install(tmp_path_factory.mktemp("installation"), housekeeping_seconds="0.3") as running:
        yield running


def crew(draft: dict[str, Any] | None = None, **fields: Any) -> crew_pb2.CrewSpec:
    """A draft that has to be approved, and what is made of it."""
    return crew_pb2.CrewSpec(
        name="brief",
        model=CAPABLE,
        agents=[crew_pb2.AgentSpec(name="writer", role="Writer", goal="Write well")],
        tasks=[
            crew_pb2.TaskSpec(
                name="draft",
                description="Write a draft.",
                expected_output="Words",
                agent="writer",
                human_approval=True,
                **(draft or {}),
            ),
            crew_pb2.TaskSpec(name="publish", description="Publish it.", expected_output="Words", agent="writer"),
        ],
        **fields,
    )


def script(lone: Installation, draft: str = "A draft.") -> None:
    llm = lone.llm
    llm.on(Reply(text="A better draft."), contains="Make it better.")
    llm.on(Reply(text=draft), last_contains="Write a draft.")
    llm.on(Reply(text="Published."), last_contains="Publish it.")


def inbox(lone: Installation) -> Any:
    return QuestionServiceStub(lone.harness.channel(ALICE))


async def asked(lone: Installation, execution_id: str, after: int = 0) -> tuple[Any, int]:
    """Wait until the execution is parked with a question; return the question's event and the last sequence."""
    events = await lone.watch(execution_id, is_kind("execution_parked"), after)
    return next(e.question_raised for e in events if is_kind("question_raised")(e)), events[-1].sequence


def accepting(question_id: str, edited: Any = None) -> question_pb2.AnswerQuestionRequest:
    request = question_pb2.AnswerQuestionRequest(id=question_id, accept=question_pb2.AcceptQuestion())
    if isinstance(edited, str):
        request.accept.content.string_value = edited
    elif edited is not None:
        request.accept.content.struct_value.update(edited)
    return request


async def memories(lone: Installation, execution: execution_pb2.Execution) -> list[str]:
    """The texts in the memory of an execution's crew, oldest first."""
    got = await lone.crews().GetCrew(crew_pb2.GetCrewRequest(id=execution.crew_id))
    namespace = memory_pb2.Namespace(memory_id=got.crew.memory_id, kind=record_pb2.MEMORY_KIND_UNIFIED)
    listed = await lone.memory().ListRecords(memory_pb2.ListRecordsRequest(namespace=namespace))
    return [record.unified.content for record in reversed(listed.records)]


async def test_a_declined_result_is_done_again_and_memory_keeps_only_the_approved_one(
    lone: Installation,
) -> None:
    script(lone)
    execution = await lone.start(crew(memory=crew_pb2.MemorySpec(enabled=True)))
    question, last = await asked(lone, execution.id)
    parked = await lone.get(execution.id)
    assert parked.state == S.EXECUTION_STATE_WAITING_FOR_ANSWER
    assert list(parked.open_question_ids) == [question.question_id]
    await until(lambda: not any(worker.crew_processes() for worker in lone.workers))
    assert (question.text, question.result.text) == ("Is this result good?", "A draft.")
    assert await memories(lone, execution) == []
    declined = question_pb2.DeclineQuestion(reason="Make it better.")
    request = question_pb2.AnswerQuestionRequest(id=question.question_id, decline=declined)
    await inbox(lone).AnswerQuestion(request)
    question, last = await asked(lone, execution.id, last)
    assert question.result.text == "A better draft."
    assert await memories(lone, execution) == []
    await inbox(lone).AnswerQuestion(accepting(question.question_id))
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "Published.")
    assert list(ended.open_question_ids) == []
    assert [run.output.text for run in await lone.tasks(execution.id)] == ["A better draft.", "Published."]
    assert await memories(lone, execution) == ["A better draft.", "Published."]


async def test_an_edited_result_is_what_follows_sees_and_memory_keeps(lone: Installation) -> None:
    script(lone)
    execution = await lone.start(crew({"output_file": "draft.md"}, memory=crew_pb2.MemorySpec(enabled=True)))
    question, last = await asked(lone, execution.id)
    assert await lone.files(execution.id) == {}
    await inbox(lone).AnswerQuestion(accepting(question.question_id, "Words of a person."))
    events = await lone.watch(execution.id, after=last)
    answered, completed = (next(filter(is_kind(kind), events)) for kind in ("question_answered", "task_completed"))
    assert answered.question_answered.edited
    assert completed.task_completed.output.text == "Words of a person."
    assert completed.task_completed.output.agent_role == "Writer"
    [publishing] = [call for call in lone.llm.calls_where(route="chat") if "Publish it." in str(call.body)]
    assert "Words of a person." in str(publishing.body)
    assert "A draft." not in str(publishing.body)
    assert await memories(lone, execution) == ["Words of a person.", "Published."]
    assert await lone.files(execution.id) == {"draft.md": b"Words of a person."}


async def test_an_analysed_memory_waits_for_the_approval_too(lone: Installation) -> None:
    script(lone)
    analysed = json.dumps({"memories": ["Drafts are approved."]})
    lone.llm.on(Reply(text=analysed), contains="Result: Words of a person.")
    lone.llm.on(Reply(text=json.dumps({"memories": ["Never."]})), contains="Result: A draft.")
    memory = crew_pb2.MemorySpec(enabled=True, analysis=True)
    execution = await lone.start(crew(memory=memory))
    question, _ = await asked(lone, execution.id)
    calls = [str(call.body) for call in lone.llm.calls_where(route="chat")]
    assert not any("Result: A draft." in call for call in calls)
    assert await memories(lone, execution) == []
    await inbox(lone).AnswerQuestion(accepting(question.question_id, "Words of a person."))
    await lone.finished(execution.id)
    assert "Never." not in await memories(lone, execution)
    assert any("Result: Words of a person." in str(call.body) for call in lone.llm.calls_where(route="chat"))


async def test_an_edited_object_becomes_the_structured_output(lone: Installation) -> None:
    script(lone, draft='{"title": "Draft"}')
    spec = crew()
    spec.tasks[0].output_schema.update(SCHEMA)
    execution = await lone.start(spec)
    question, _ = await asked(lone, execution.id)
    assert question.result.structured["title"] == "Draft"
    await inbox(lone).AnswerQuestion(accepting(question.question_id, {"title": "Final"}))
    await lone.finished(execution.id)
    [draft, _] = await lone.tasks(execution.id)
    assert (draft.output.text, draft.output.structured["title"]) == ('{"title": "Final"}', "Final")


async def test_cancelling_keeps_nothing_in_memory(lone: Installation) -> None:
    script(lone)
    execution = await lone.start(crew(memory=crew_pb2.MemorySpec(enabled=True)))
    question, _ = await asked(lone, execution.id)
    request = question_pb2.AnswerQuestionRequest(id=question.question_id, cancel=question_pb2.CancelQuestion())
    await inbox(lone).AnswerQuestion(request)
    ended = await lone.finished(execution.id)
    assert ended.state == S.EXECUTION_STATE_CANCELLED
    assert await memories(lone, execution) == []


async def test_the_host_killed_between_question_and_answer_costs_nothing(lone: Installation) -> None:
    script(lone)
    execution = await lone.start(crew(memory=crew_pb2.MemorySpec(enabled=True)))
    question, last = await asked(lone, execution.id)
    [worker] = lone.workers
    worker.kill()
    await worker.ended()
    await inbox(lone).AnswerQuestion(accepting(question.question_id))
    await lone.hosts(1)
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "Published.")
    assert len([call for call in lone.llm.calls_where(route="chat") if "Write a draft." in str(call.body)]) == 1
    assert await memories(lone, execution) == ["A draft.", "Published."]
    assert kinds(await lone.watch(execution.id, after=last)).count("question_answered") == 1


@pytest.mark.parametrize(
    ("action", "state", "reason"),
    [
        (question_state_pb2.ON_DEADLINE_UNSPECIFIED, S.EXECUTION_STATE_FAILED, "QUESTION_EXPIRED"),
        (question_state_pb2.ON_DEADLINE_CANCEL, S.EXECUTION_STATE_CANCELLED, ""),
        (question_state_pb2.ON_DEADLINE_ACCEPT_DEFAULT, S.EXECUTION_STATE_SUCCEEDED, ""),
    ],
)
async def test_the_deadline_of_a_task_is_kept(
    lone: Installation,
    action: question_state_pb2.OnDeadline.ValueType,
    state: execution_pb2.ExecutionState.ValueType,
    reason: str,
) -> None:
    script(lone)
    approval = crew_pb2.ApprovalSpec(question="Is it {how}?", deadline=Duration(nanos=200_000_000), on_deadline=action)
    execution = await lone.start(crew({"approval": approval}), inputs={"how": "short"})
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.error.reason) == (state, reason)
    [question] = (
        await inbox(lone).ListQuestions(question_pb2.ListQuestionsRequest(execution_id=execution.id))
    ).questions
    assert (question.text, question.answered_by) == ("Is it short?", "")
    assert question.deadline.ToDatetime() > question.create_time.ToDatetime()
    if reason:
        assert (ended.error.task_name, "Is it short?" in ended.error.message) == ("draft", True)
        assert (await lone.tasks(execution.id))[0].state == S.TASK_STATE_FAILED
        # Whoever resumes it is asked about the same result again, which is not paid for twice.
        resume = execution_pb2.ResumeExecutionRequest(id=execution.id)
        resumed = (await lone.executions().ResumeExecution(resume)).execution
        again, _ = await asked(lone, resumed.id)
        assert again.result.text == "A draft."
        assert len(lone.llm.calls_where(route="chat")) == 1


async def test_an_agent_asks_a_person_and_goes_on_with_the_answer(lone: Installation) -> None:
    arguments = {"question": "Which harbour?", "choices": ["Kiel", "Brest"]}
    lone.llm.on(Reply(tool_calls=[ToolCall(name="ask_person", arguments=arguments)]), route="chat", times=1)
    lone.llm.on(Reply(text="To Brest."), route="chat", contains="Brest")
    spec = crew()
    del spec.tasks[:1]
    spec.tasks[0].tools.add(name="ask_person")
    execution = await lone.start(spec)
    question, last = await asked(lone, execution.id)
    assert (question.kind, question.text) == (question_state_pb2.QUESTION_KIND_FORM, "Which harbour?")
    assert (await lone.get(execution.id)).state == S.EXECUTION_STATE_WAITING_FOR_ANSWER
    request = question_pb2.AnswerQuestionRequest(id=question.question_id)
    request.accept.content.struct_value.update({"answer": "Lisbon"})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await inbox(lone).AnswerQuestion(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    request.accept.content.struct_value.update({"answer": "Brest"})
    await inbox(lone).AnswerQuestion(request)
    events = await lone.watch(execution.id, after=last)
    ended = await lone.get(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "To Brest."), ended.error
    [told] = [event.tool_call_completed for event in events if event.WhichOneof("event") == "tool_call_completed"]
    assert (told.tool_name, told.output) == ("ask_person", "Brest")
    assert len(lone.llm.calls_where(route="chat")) == 2, "what the model said before is replayed"


async def test_the_official_client_of_a2a_completes_a_crew_that_asks(lone: Installation) -> None:
    script(lone)
    spec = crew(a2a=a2a_pb2.A2ASpec(published=True, is_default=True, text_input="text"))
    spec.tasks[1].description = "After {text}: Publish it."
    await lone.crews().CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
    bearer = {"authorization": f"Bearer {ALICE}"}
    channel = lone.harness.channel(ALICE, headers={"a2a-version": "1.0"})
    stub = stub_of(channel)
    card = await stub.GetExtendedAgentCard(a2a.GetExtendedAgentCardRequest())
    # Where it is served here: cards name the configured port.
    card.supported_interfaces[0].url = lone.harness.address
    config = ClientConfig(supported_protocol_bindings=["GRPC"], grpc_channel_factory=grpc.aio.insecure_channel)
    client = ClientFactory(config).create(card)
    context = ClientCallContext(service_parameters=bearer)
    begun = a2a.Message(message_id="m1", role=a2a.ROLE_USER, parts=[a2a.Part(text="the news")])
    told: list[a2a.StreamResponse] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for response in client.send_message(a2a.SendMessageRequest(message=begun), context=context):
            told.append(response)
            status = response.status_update
            if status.status.state == a2a.TASK_STATE_INPUT_REQUIRED:
                yes = a2a.Message(
                    message_id="m2", task_id=status.task_id, role=a2a.ROLE_USER, parts=[a2a.Part(text="approve")]
                )
                answer = a2a.SendMessageRequest(message=yes)
                answer.configuration.return_immediately = True
                await stub.SendMessage(answer)
    assert told[0].HasField("task")
    artifact = next(one.artifact_update.artifact for one in told if one.HasField("artifact_update"))
    assert artifact.parts[0].text == "Published."
    assert told[-1].status_update.status.state == a2a.TASK_STATE_COMPLETED
    task = await client.get_task(a2a.GetTaskRequest(id=told[0].task.id), context=context)
    assert [said.role for said in task.history] == [a2a.ROLE_USER, a2a.ROLE_AGENT, a2a.ROLE_USER]
    assert list(task.artifacts) == [artifact]
    await client.close()


async def test_the_example_of_the_page_about_a2a_works(lone: Installation) -> None:
    script(lone)
    spec = crew(a2a=a2a_pb2.A2ASpec(published=True, is_default=True))
    del spec.tasks[0]
    spec.tasks[0].description = "After {text}: Publish it."
    await lone.crews("dev:eve:page=admin").CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
    page = (ROOT / "docs" / "a2a.md").read_text()
    example: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], example)
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await example["ask"](lone.harness.address, "dev:eve:page=admin", "the news")
    assert answer == "Published."
    send = ("agents", "send", spec.name, "the news", "--json")
    printed = (await Run(lone.harness.address, "dev:eve:page=admin")(*send)).stdout
    # Services in this process log beside it.
    *_, result, ended = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    assert result["artifactUpdate"]["artifact"]["parts"][0]["text"] == "Published."
    assert ended["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
