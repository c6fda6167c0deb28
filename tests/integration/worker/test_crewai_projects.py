"""CrewAI projects as people have them run to their end: read, stored, and run by real hosts and crew processes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coxswain.client import ImportedCrew, load_crewai_project
from coxswain.client.documents import DocumentError
from coxswain.orchestrator.v1 import batch_pb2, crew_pb2, execution_pb2, question_pb2
from coxswain.orchestrator.v1.batch_service_pb2_grpc import BatchServiceStub
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from tests.integration.worker.installation import WAIT_SECONDS, Installation, install, is_kind
from tests.support.harness import ALICE
from tests.support.llm_script import Reply, ToolCall

S = execution_pb2
PROJECTS = Path(__file__).parent / "crewai_projects"
TOOLS = {"WordCountTool": "calculator", "tariff": "calculator", "SerperDevTool": "calculator"}
"""What stands for the tools of the projects."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """An installation that does its housekeeping often."""
    async with install(tmp_path_factory.mktemp("installation"), housekeeping_seconds="0.3") as running:
        yield running


def imported(project: str, *given: str) -> ImportedCrew:
    """The crew of a project, with what stands for those of its tools that it has."""
    return load_crewai_project(PROJECTS / project, tools={name: TOOLS[name] for name in given})


def noted(crew: ImportedCrew) -> list[str]:
    return [one.field for one in crew.notes]


async def begin(lone: Installation, spec: crew_pb2.CrewSpec, **inputs: str) -> S.Execution:
    """Start an execution of a crew that the server has nothing to say about."""
    checked = await lone.crews().ValidateCrew(crew_pb2.ValidateCrewRequest(spec=spec))
    assert not checked.faults
    return await lone.start(spec, inputs=inputs)


async def run(lone: Installation, spec: crew_pb2.CrewSpec, **inputs: str) -> S.Execution:
    """Run a crew to its end."""
    ended = await lone.finished((await begin(lone, spec, **inputs)).id)
    assert ended.state == S.EXECUTION_STATE_SUCCEEDED, ended.error
    return ended


def prompts(lone: Installation, *words: str) -> list[str]:
    """The prompts that hold all of some words."""
    texts = [json.dumps(call.body["messages"]) for call in lone.llm.calls_where(route="chat")]
    return [text for text in texts if all(word in text for word in words)]


def print_a_newspaper(lone: Installation) -> None:
    lone.llm.on(Reply(text='{"valid": true, "feedback": null}'), contains="Guardrail Agent")
    count = ToolCall(name="calculator", arguments={"expression": "2 + 3"})
    lone.llm.on(Reply(tool_calls=[count]), last_contains="Gather facts", times=1)
    lone.llm.on(Reply(text="Ships came."), contains="Gather facts about")
    page = {"headline": "Ships come", "body": "They came.", "sources": [{"name": "The pilot"}]}
    lone.llm.on(Reply(text=json.dumps(page)), contains="Write the page about")


async def test_a_project_with_knowledge_memory_guardrails_and_a_class_of_results(lone: Installation) -> None:
    crew = imported("newsroom", "WordCountTool")
    assert noted(crew) == [
        "Newsroom.set_year",
        "Newsroom.log_result",
        "verbose",
        "tasks.gather_task.callback",
        "tasks.page_task.guardrails",
    ]
    print_a_newspaper(lone)
    ended = await run(lone, crew.spec, beat="Harbours", year="2026")
    assert ended.result.structured["headline"] == "Ships come"
    assert list(await lone.files(ended.id)) == ["output/page.md"]
    assert await lone.journaled_tools(ended.id) == 1
    assert prompts(lone, "Harbours Reporter", "Headlines have a verb.", "numbers below thirteen")
    assert prompts(lone, "Guardrail Agent", "names no living person")


async def test_the_inputs_of_kickoff_for_each_are_a_batch(lone: Installation) -> None:
    spec = imported("newsroom", "WordCountTool").spec
    print_a_newspaper(lone)
    created = await lone.crews().CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))
    request = batch_pb2.StartBatchRequest(start=S.StartExecutionRequest(crew_id=created.crew.id))
    for beat in ("Harbours", "Rivers"):
        request.inputs.add().update({"beat": beat, "year": "2026"})
    stub: Any = BatchServiceStub(lone.harness.channel(ALICE))
    batch = (await stub.StartBatch(request)).batch
    async with asyncio.timeout(WAIT_SECONDS):
        while not batch.HasField("end_time"):
            await asyncio.sleep(0.05)
            batch = (await stub.GetBatch(batch_pb2.GetBatchRequest(id=batch.id))).batch
    assert {one.state: one.count for one in batch.counts if one.count} == {S.EXECUTION_STATE_SUCCEEDED: 2}
    assert prompts(lone, "Rivers Reporter")


async def test_a_managed_project_with_tasks_side_by_side_and_a_person(lone: Installation) -> None:
    crew = imported("help_desk", "tariff")
    assert noted(crew) == [
        "agents.clerk.llm.timeout",
        "agents.clerk.llm.api_key",
        "agents.clerk.cache",
        "tasks.apologise.condition",
        "crew.task_callback",
        "HelpDesk.night_crew",
    ]
    crew.spec.tasks[2].condition = "tasks.read_letter.text.contains('angry')"
    lone.llm.on(Reply(text="Ada wants her money."), contains="Say in one sentence")
    work = {"task": "Work out the refund", "context": "A ticket of 12", "coworker": "Accountant"}
    delegate = ToolCall(name="delegate_work_to_coworker", arguments=work)
    lone.llm.on(Reply(tool_calls=[delegate]), last_contains="Work out the refund of", times=1)
    lone.llm.on(Reply(text="It is 12."), contains="Work out the refund")
    lone.llm.on(Reply(text="Dear Ada, here are 12."), contains="in full")
    execution = await begin(lone, crew.spec, customer="Ada", letter="Where is my money?")
    events = await lone.watch(execution.id, is_kind("execution_parked"))
    [raised] = [event.question_raised for event in events if event.HasField("question_raised")]
    inbox: Any = QuestionServiceStub(lone.harness.channel(ALICE))
    accepted = question_pb2.AcceptQuestion()
    await inbox.AnswerQuestion(question_pb2.AnswerQuestionRequest(id=raised.question_id, accept=accepted))
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, "Dear Ada, here are 12."), ended.error
    states = [task.state for task in await lone.tasks(execution.id)]
    assert states == [S.TASK_STATE_SUCCEEDED] * 2 + [S.TASK_STATE_SKIPPED, S.TASK_STATE_SUCCEEDED]
    assert prompts(lone, "Head of the help desk")
    assert prompts(lone, "You check each sum.", "A ticket of 12")


async def test_the_crews_of_a_flow_run_one_after_the_other(lone: Installation) -> None:
    with pytest.raises(DocumentError) as refused:
        imported("travel")
    told = str(refused.value)
    assert "give its directory: src/travel/crews/route_crew" in told
    assert "TravelFlow: a flow is not imported" in told
    route = imported("travel/src/travel/crews/route_crew", "SerperDevTool")
    packing = imported("travel/src/travel/crews/packing_crew")
    assert (noted(route), noted(packing)) == (["verbose"], [])
    lone.llm.on(Reply(text="By the coast road."), contains="Find a route to Lisbon")
    lone.llm.on(Reply(text='{"items": [{"name": "Hat"}]}'), contains="what to pack for By the coast road.")
    walked = await run(lone, route.spec, place="Lisbon")
    packed = await run(lone, packing.spec, route=walked.result.text)
    assert json.loads(packed.result.text)["items"][0]["name"] == "Hat"


async def test_a_project_that_uses_much_that_is_not_here_runs_without_it_and_says_so(lone: Installation) -> None:
    crew = imported("analysts")
    assert noted(crew) == [
        "Analysts.mcp_server_params",
        "agents.analyst.llm.base_url",
        "WebsiteSearchTool",
        "PDFSearchTool",
        "CodeInterpreterTool",
        "FileWriterTool",
        "agents.analyst.max_reasoning_attempts",
        "agents.analyst.step_callback",
        "agents.analyst.multimodal",
        "agents.critic.llm.base_url",
        "get_mcp_tools",
        "agents.critic.mcps",
        "agents.critic.apps",
        "agents.critic.guardrail",
        "agents.critic.system_template",
        "agents.critic.skills",
        "tasks.judge_task.guardrail.llm",
        "tasks.judge_task.output_file",
        "tasks.doubt_task.allow_crewai_trigger_context",
        "crew.embedder",
        "crew.knowledge_sources",
        "crew.max_rpm",
        "crew.cache",
        "crew.share_crew",
        "crew.stream",
        "crew.tracing",
        "crew.output_log_file",
    ]
    assert not [one for one in crew.notes if "has no counterpart and was left out" in one.description]
    lone.llm.on(Reply(text='{"valid": true, "feedback": null}'), contains="Guardrail Agent")
    named = enumerate(("judge_task", "doubt_task"), 1)
    plans = [{"task_number": number, "task": name, "plan": "Look twice."} for number, name in named]
    lone.llm.on(Reply(text=json.dumps({"list_of_plans_per_task": plans})), contains="Task Execution Planner")
    lone.llm.on(Reply(text="Too dear, by 12 %."), contains="You were wrong once.")
    lone.llm.on(Reply(text="Worth 3."), contains="Senior ship Analyst")
    ended = await run(lone, crew.spec, company="Hull & Son", market="ship")
    assert ended.result.text == "Too dear, by 12 %."
    sent = lone.llm.calls_where(route="chat")
    assert {call.body.get("temperature") for call in sent if "You are Senior ship Analyst" in str(call.body)} == {0.3}


async def test_a_project_whose_texts_stand_in_the_code(lone: Installation) -> None:
    crew = imported("lessons")
    assert noted(crew) == ["tasks.quiz.output_pydantic", "tasks.quiz.name"]
    quiz = {"title": "Tides", "questions": [{"text": "Why?", "level": "easy"}]}
    lone.llm.on(Reply(text="The moon pulls."), contains="Explain tides for these levels: easy, hard")
    lone.llm.on(Reply(text=json.dumps(quiz)), contains="Make a quiz")
    lone.llm.on(Reply(text="Moon, then quiz."), contains="You write small.")
    ended = await run(lone, crew.spec, subject="tides")
    assert ended.result.text == "Moon, then quiz."
    assert (await lone.tasks(ended.id))[1].output.structured["title"] == "Tides"
    assert prompts(lone, "You write small.", "The moon pulls.")
