"""QuestionService over real gRPC: the inbox, who may answer, and what an answer makes of its execution."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value
from prometheus_client import REGISTRY

from coxswain.common.v1 import access_pb2
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import question_pb2 as pb
from coxswain.orchestrator.v1 import question_state_pb2 as state_pb
from services.common.clock import utc_now
from services.common.identity.principal import Role
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.execution import ExecutionState, TaskOutput
from services.orchestrator.domain.question import QuestionKind
from services.orchestrator.service import OrchestratorService
from tests.integration.orchestrator.support import (
    Worker,
    executions_of,
    questions_of,
    refused,
    start,
)
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
OPERATOR = "dev:olga:sales=operator"
EDITOR = "dev:ed:sales=editor"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string", "pattern": "^[A-Z]"}, "pages": {"type": "integer"}},
    "required": ["title"],
    "additionalProperties": False,
}


def accepting(question_id: str, content: Any = None, **fields: Any) -> pb.AnswerQuestionRequest:
    accept = pb.AcceptQuestion() if content is None else pb.AcceptQuestion(content=ParseDict(content, Value()))
    return pb.AnswerQuestionRequest(id=question_id, accept=accept, **fields)


def declining(question_id: str, reason: str = "", **fields: Any) -> pb.AnswerQuestionRequest:
    return pb.AnswerQuestionRequest(id=question_id, decline=pb.DeclineQuestion(reason=reason), **fields)


def cancelling(question_id: str) -> pb.AnswerQuestionRequest:
    return pb.AnswerQuestionRequest(id=question_id, cancel=pb.CancelQuestion())


async def parked(harness: Harness, worker: Worker, **fields: Any) -> tuple[str, str]:
    """Start an execution that waits for an answer; return its id and the question's."""
    made = await start(harness)
    await worker.claim(made.id)
    return made.id, await worker.park(made.id, 1, **fields)


async def execution(harness: Harness, execution_id: str) -> execution_pb2.Execution:
    request = execution_pb2.GetExecutionRequest(id=execution_id)
    return (await executions_of(harness).GetExecution(request)).execution


async def last_events(harness: Harness, execution_id: str, after: int) -> list[execution_pb2.ExecutionEvent]:
    """Return the events after a sequence up to the newest one."""
    newest = (await execution(harness, execution_id)).last_sequence
    call: Any = executions_of(harness).WatchExecution(
        execution_pb2.WatchExecutionRequest(id=execution_id, after_sequence=after)
    )
    return [(await call.read()).event for _ in range(newest - after)]


async def housekeeping(harness: Harness) -> None:
    service = harness.services["orchestrator"]
    assert isinstance(service, OrchestratorService)
    await service._housekeeping.once()
    await service._waiting_work.count()


async def test_the_inbox_lists_open_questions_newest_first_in_pages_and_by_filters(
    harness: Harness, worker: Worker
) -> None:
    inbox = questions_of(harness)
    made = [await parked(harness, worker) for _ in range(3)]
    ids = [question_id for _, question_id in made]
    first = await inbox.ListQuestions(pb.ListQuestionsRequest(page_size=2))
    rest = await inbox.ListQuestions(pb.ListQuestionsRequest(page_size=2, page_token=first.next_page_token))
    assert [question.id for question in (*first.questions, *rest.questions)] == ids[::-1]
    assert rest.next_page_token == ""
    shown = rest.questions[0]
    assert (shown.kind, shown.state) == (state_pb.QUESTION_KIND_RESULT_APPROVAL, state_pb.QUESTION_STATE_OPEN)
    assert (shown.execution_id, shown.task_name, shown.task_index, shown.attempt) == (made[0][0], "edit", 1, 1)
    assert (shown.text, shown.result.text, shown.role) == ("Is this result good?", "draft", access_pb2.ROLE_EDITOR)
    assert shown.crew_name.startswith("crew ")
    assert not shown.HasField("deadline")
    assert shown.create_time.seconds
    await inbox.AnswerQuestion(accepting(ids[1]))

    async def listed(**fields: Any) -> list[str]:
        return [q.id for q in (await inbox.ListQuestions(pb.ListQuestionsRequest(**fields))).questions]

    assert await listed(states=[state_pb.QUESTION_STATE_OPEN]) == [ids[2], ids[0]]
    assert await listed(states=[state_pb.QUESTION_STATE_ACCEPTED, state_pb.QUESTION_STATE_DECLINED]) == [ids[1]]
    assert await listed(execution_id=made[2][0]) == [ids[2]]
    assert await listed(crew_id=shown.crew_id) == [ids[0]]
    assert len(await listed(kinds=[state_pb.QUESTION_KIND_RESULT_APPROVAL])) == 3
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await inbox.ListQuestions(
            pb.ListQuestionsRequest(page_token=first.next_page_token, states=[state_pb.QUESTION_STATE_OPEN])
        )
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await inbox.ListQuestions(pb.ListQuestionsRequest(states=[state_pb.QUESTION_STATE_UNSPECIFIED]))


async def test_an_execution_and_its_task_name_their_open_questions(harness: Harness, worker: Worker) -> None:
    execution_id, question_id = await parked(harness, worker)
    stub = executions_of(harness)

    async def named() -> tuple[list[str], list[str], list[list[str]]]:
        [listed] = (await stub.ListExecutions(execution_pb2.ListExecutionsRequest())).executions
        tasks = (await stub.GetTaskOutputs(execution_pb2.GetTaskOutputsRequest(id=execution_id))).tasks
        got = await execution(harness, execution_id)
        return list(got.open_question_ids), list(listed.open_question_ids), [list(t.open_question_ids) for t in tasks]

    assert await named() == ([question_id], [question_id], [[], [question_id], []])
    await questions_of(harness).AnswerQuestion(accepting(question_id))
    assert await named() == ([], [], [[], [], []])


@pytest.mark.parametrize(
    ("answer", "other", "state"),
    [(accepting, declining, "ACCEPTED"), (lambda id_: declining(id_, "shorter"), accepting, "DECLINED")],
)
async def test_answers_at_once_wake_the_execution_once_and_the_first_one_counts(
    harness: Harness, worker: Worker, answer: Any, other: Any, state: str
) -> None:
    inbox = questions_of(harness)
    execution_id, question_id = await parked(harness, worker)
    answers = await asyncio.gather(*(inbox.AnswerQuestion(answer(question_id)) for _ in range(3)))
    [answered] = {got.question.SerializeToString() for got in answers}
    question = pb.Question.FromString(answered)
    assert state_pb.QuestionState.Name(question.state) == f"QUESTION_STATE_{state}"
    assert (question.answered_by, question.decline_reason) == ("dev|alice", "shorter" if state == "DECLINED" else "")
    row = await worker.row(execution_id)
    assert (row.state, row.ready, row.generation, row.last_sequence) == ("QUEUED", True, 2, 3)
    for second in (other(question_id), cancelling(question_id)):
        with refused(CODE.FAILED_PRECONDITION, "QUESTION_STATE") as refusal:
            await inbox.AnswerQuestion(second)
        assert refusal.metadata == {"question_id": question_id, "state": state}
    # The same words of somebody else are another answer.
    with refused(CODE.FAILED_PRECONDITION, "QUESTION_STATE"):
        await questions_of(harness, EDITOR).AnswerQuestion(answer(question_id))
    assert await worker.row(execution_id) == row
    [event] = await last_events(harness, execution_id, 2)
    assert (event.task_name, event.question_answered.question_id) == ("edit", question_id)
    assert (event.question_answered.subject, event.question_answered.edited) == ("dev|alice", False)


async def test_different_answers_at_once_leave_one(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    execution_id, question_id = await parked(harness, worker)
    requests = [accepting(question_id), declining(question_id, "no"), accepting(question_id, "Edited.")] * 2

    answers: list[Any] = [inbox.AnswerQuestion(request) for request in requests]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    taken = [outcome.question for outcome in outcomes if isinstance(outcome, pb.AnswerQuestionResponse)]
    refusals = [outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert refusals == [CODE.FAILED_PRECONDITION] * 4
    assert taken[0] == taken[1]
    assert (await worker.row(execution_id)).generation == 2


async def test_a_request_id_stands_for_one_answer(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    execution_id, question_id = await parked(harness, worker)
    first = await inbox.AnswerQuestion(accepting(question_id, request_id="r"))
    assert await inbox.AnswerQuestion(accepting(question_id, request_id="r")) == first
    _, other_id = await parked(harness, worker)
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await inbox.AnswerQuestion(accepting(other_id, request_id="r"))
    assert (await inbox.GetQuestion(pb.GetQuestionRequest(id=other_id))).question.state == state_pb.QUESTION_STATE_OPEN
    assert (await worker.row(execution_id)).generation == 2


async def test_an_answer_without_a_decision_changes_nothing(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    execution_id, question_id = await parked(harness, worker)
    before = await worker.row(execution_id)
    for request in (pb.AnswerQuestionRequest(id=question_id), pb.AnswerQuestionRequest(id=question_id, request_id="r")):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await inbox.AnswerQuestion(request)
        assert list(refusal.violations) == ["answer"]
    assert await worker.row(execution_id) == before
    question = (await inbox.GetQuestion(pb.GetQuestionRequest(id=question_id))).question
    assert question.state == state_pb.QUESTION_STATE_OPEN


async def test_an_edited_text_is_kept_with_the_answer_and_told_of(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    execution_id, question_id = await parked(harness, worker)
    wrong: list[Any] = ["", "  ", "x" * 1_000_001, {"title": "T"}, 7, ["x"]]
    for content in wrong:
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await inbox.AnswerQuestion(accepting(question_id, content))
        assert refusal.violations["accept.content"].startswith("must be a text of 1 to 1,000,000 characters")
    nothing = pb.AcceptQuestion(content=Value(null_value=0))  # type: ignore[arg-type]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await inbox.AnswerQuestion(pb.AnswerQuestionRequest(id=question_id, accept=nothing))
    assert "null" in refusal.violations["accept.content"]
    question = (await inbox.AnswerQuestion(accepting(question_id, "A better draft."))).question
    assert question.accepted_content.string_value == "A better draft."
    assert question.result.text == "draft"
    [event] = await last_events(harness, execution_id, 2)
    assert event.question_answered.edited


async def test_an_edited_object_follows_the_output_schema(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    result = TaskOutput('{"title": "Draft"}', {"title": "Draft"}, "Editor")
    _, question_id = await parked(harness, worker, schema=SCHEMA, result=result)
    wrong: list[tuple[Any, Mapping[str, str]]] = [
        ("A text.", {"accept.content": "must be an object"}),
        ({"pages": 1}, {"accept.content": "has to have title"}),
        ({"title": "ok"}, {"accept.content.title": "has to follow pattern"}),
        ({"title": 1, "pages": 1.5}, {"accept.content.title": "has to be of", "accept.content.pages": "has to be of"}),
        ({"title": "Ok", "more": 1}, {"accept.content": "must not have properties"}),
    ]
    for content, violations in wrong:
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await inbox.AnswerQuestion(accepting(question_id, content))
        assert refusal.violations.keys() == violations.keys()
        assert all(refusal.violations[field].startswith(text) for field, text in violations.items()), refusal
    question = (await inbox.AnswerQuestion(accepting(question_id, {"title": "Final", "pages": 3}))).question
    assert MessageToDict(question.accepted_content) == {"title": "Final", "pages": 3}
    assert MessageToDict(question.schema)["required"] == ["title"]


async def test_what_cannot_be_checked_is_refused_and_holds_nothing_up(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    hard = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    _, question_id = await parked(harness, worker, schema=hard)
    nested: Any = {}
    for _ in range(26):
        nested = {"a": nested}
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await inbox.AnswerQuestion(accepting(question_id, nested))
    assert "nested at most 24 levels" in refusal.violations["accept.content"]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await inbox.AnswerQuestion(accepting(question_id, {"a": "a" * 40 + "!"}))
    assert "cannot be checked" in refusal.violations["accept.content"]
    await inbox.AnswerQuestion(accepting(question_id, {"a": "aaa"}))


async def test_an_answer_may_cancel_the_execution(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    execution_id, question_id = await parked(harness, worker)
    other_id = await worker.ask(execution_id, 2)
    question = (await inbox.AnswerQuestion(cancelling(question_id))).question
    assert question.state == state_pb.QUESTION_STATE_CANCELLED
    assert (await execution(harness, execution_id)).state == execution_pb2.EXECUTION_STATE_CANCELLED
    assert [e.WhichOneof("event") for e in await last_events(harness, execution_id, 2)] == [
        "question_answered",
        "execution_cancelled",
    ]
    assert (await inbox.AnswerQuestion(cancelling(question_id))).question == question
    other = (await inbox.GetQuestion(pb.GetQuestionRequest(id=other_id))).question
    assert other.state == state_pb.QUESTION_STATE_CLOSED
    # A running execution is its worker's to end.
    made = await start(harness)
    await worker.claim(made.id)
    await inbox.AnswerQuestion(cancelling(await worker.ask(made.id, 1)))
    running = await execution(harness, made.id)
    assert running.state == execution_pb2.EXECUTION_STATE_RUNNING
    assert running.HasField("cancel_request_time")


async def test_a_question_closes_with_its_execution(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    cancelled, question_id = await parked(harness, worker)
    await executions_of(harness).CancelExecution(execution_pb2.CancelExecutionRequest(id=cancelled))
    for request in (accepting(question_id), declining(question_id), cancelling(question_id)):
        with refused(CODE.FAILED_PRECONDITION, "QUESTION_STATE") as refusal:
            await inbox.AnswerQuestion(request)
        assert refusal.metadata == {"question_id": question_id, "state": "CLOSED"}
    question = (await inbox.GetQuestion(pb.GetQuestionRequest(id=question_id))).question
    assert (question.answered_by, question.HasField("answer_time")) == ("", False)
    # One that a worker ended without having closed it (as no release does) cannot be answered either.
    ended, still_open = await parked(harness, worker)
    await worker.end(ended, ExecutionState.SUCCEEDED, execution_pb2.ExecutionSucceeded())
    with refused(CODE.FAILED_PRECONDITION, "QUESTION_STATE"):
        await inbox.AnswerQuestion(accepting(still_open))


async def test_a_question_names_the_role_that_may_answer_it(harness: Harness, worker: Worker) -> None:
    roles = {Role.OPERATOR: OPERATOR, Role.EDITOR: EDITOR, Role.ADMIN: ALICE}
    for needed in roles:
        _, question_id = await parked(harness, worker, role=needed)
        for role, bearer in roles.items():
            inbox = questions_of(harness, bearer)
            if role < needed:
                for request in (accepting(question_id), declining(question_id), cancelling(question_id)):
                    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED") as refusal:
                        await inbox.AnswerQuestion(request)
                    assert refusal.metadata == {"required": needed.name, "actual": role.name}
            else:
                await inbox.AnswerQuestion(accepting(question_id))
                break


async def test_another_group_sees_and_answers_nothing(harness: Harness, worker: Worker) -> None:
    execution_id, question_id = await parked(harness, worker)
    before = await worker.row(execution_id)
    foreign = questions_of(harness, BOB)
    assert not (await foreign.ListQuestions(pb.ListQuestionsRequest())).questions
    assert not (await foreign.ListQuestions(pb.ListQuestionsRequest(execution_id=execution_id))).questions
    for id_ in (question_id, "0" * 36):
        calls: tuple[Any, ...] = (
            foreign.GetQuestion(pb.GetQuestionRequest(id=id_)),
            *(foreign.AnswerQuestion(ask(id_)) for ask in (accepting, declining, cancelling)),
        )
        for call in calls:
            with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
                await call
            # What exists elsewhere cannot be told from what never did.
            assert refusal.message == f'there is no question "{id_}" in your group'
    assert await worker.row(execution_id) == before


async def test_a_deadline_answers_once_with_its_action(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    _, later = await parked(harness, worker, deadline_at=utc_now() + timedelta(hours=1))
    expected = {
        OnDeadline.DECLINE: (state_pb.QUESTION_STATE_DECLINED, "QUEUED", "nobody answered until the deadline"),
        OnDeadline.CANCEL: (state_pb.QUESTION_STATE_CANCELLED, "CANCELLED", ""),
        OnDeadline.ACCEPT_DEFAULT: (state_pb.QUESTION_STATE_ACCEPTED, "QUEUED", ""),
    }
    for action, (state, left, reason) in expected.items():
        for running in (False, True):
            made = await start(harness)
            await worker.claim(made.id)
            ask = worker.ask if running else worker.park
            due = await ask(made.id, 1, deadline_at=utc_now() - timedelta(seconds=1), on_deadline=action)
            await asyncio.gather(*(housekeeping(harness) for _ in range(3)))
            question = (await inbox.GetQuestion(pb.GetQuestionRequest(id=due))).question
            assert (question.state, question.answered_by, question.decline_reason) == (state, "", reason)
            assert question.HasField("answer_time")
            row = await worker.row(made.id)
            assert row.state == ("RUNNING" if running else left)
            if running:
                assert (row.cancel_requested_at is not None) == (action is OnDeadline.CANCEL)
            events = await last_events(harness, made.id, 2)
            assert (events[0].question_answered.state, events[0].question_answered.subject) == (state, "")
            assert [event.WhichOneof("event") for event in events].count("question_answered") == 1
            with refused(CODE.FAILED_PRECONDITION, "QUESTION_STATE"):
                await inbox.AnswerQuestion(accepting(due))
    assert (await inbox.GetQuestion(pb.GetQuestionRequest(id=later))).question.state == state_pb.QUESTION_STATE_OPEN


# ---- watching


def watch(harness: Harness, after: int = 0, bearer: str = ALICE) -> Any:
    return questions_of(harness, bearer).WatchQuestions(pb.WatchQuestionsRequest(after_sequence=after))


async def taken(call: AsyncIterator[pb.WatchQuestionsResponse], count: int) -> list[tuple[int, str, str]]:
    found = []
    async with asyncio.timeout(60):
        async for response in call:
            state = state_pb.QuestionState.Name(response.question.state).removeprefix("QUESTION_STATE_")
            found.append((response.sequence, response.question.id, state))
            if len(found) == count:
                break
    return found


async def test_a_watch_begins_with_what_is_open_and_follows(harness: Harness, worker: Worker) -> None:
    inbox = questions_of(harness)
    _, one = await parked(harness, worker)
    _, two = await parked(harness, worker)
    await inbox.AnswerQuestion(accepting(one))
    call = watch(harness)
    assert await taken(call, 1) == [(2, two, "OPEN")]
    execution_id, three = await parked(harness, worker)
    assert await taken(call, 1) == [(4, three, "OPEN")]
    await inbox.AnswerQuestion(declining(two))
    assert await taken(call, 1) == [(5, two, "DECLINED")]
    await executions_of(harness).CancelExecution(execution_pb2.CancelExecutionRequest(id=execution_id))
    assert await taken(call, 1) == [(6, three, "CLOSED")]
    call.cancel()
    everything = [(1, one, "OPEN"), (2, two, "OPEN"), (3, one, "ACCEPTED"), (4, three, "OPEN"), (5, two, "DECLINED")]
    for after in (1, 3):
        again = watch(harness, after)
        assert await taken(again, 6 - after) == [*everything[after:], (6, three, "CLOSED")]
        again.cancel()
    # What was asked is told as it was then, whatever has become of it since.
    first = watch(harness, 1)
    asked = (await first.read()).question
    assert (asked.answered_by, asked.HasField("answer_time")) == ("", False)
    first.cancel()
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await watch(harness, 7).read()
    assert set(refusal.violations) == {"after_sequence"}
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await watch(harness, 1, BOB).read()


async def test_a_watch_of_another_group_sees_nothing(harness: Harness, worker: Worker) -> None:
    foreign = watch(harness, bearer=BOB)
    reading = asyncio.create_task(foreign.read())
    ours = watch(harness)
    _, question_id = await parked(harness, worker)
    assert await taken(ours, 1) == [(1, question_id, "OPEN")]
    assert not reading.done()
    foreign.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


async def test_a_watch_ends_with_unavailable_when_its_replica_shuts_down(harness: Harness, worker: Worker) -> None:
    _, question_id = await parked(harness, worker)
    call = watch(harness)
    assert await taken(call, 1) == [(1, question_id, "OPEN")]
    await harness.services["orchestrator"].drain()
    with refused(CODE.UNAVAILABLE, "SHUTTING_DOWN"):
        await call.read()
    with refused(CODE.UNAVAILABLE, "SHUTTING_DOWN"):
        await watch(harness, 1).read()


async def test_concurrent_writers_are_seen_once_and_in_order(harness: Harness, worker: Worker) -> None:
    """Each question is one transaction, many at once; a watcher that connects again and again misses none."""
    made = [await start(harness) for _ in range(8)]
    for each in made:
        await worker.claim(each.id)
    asking = asyncio.gather(*(worker.ask(each.id, index) for index in (0, 1, 2) for each in made))
    seen: list[int] = []
    position = 0
    while len(seen) < 24:
        call = watch(harness, position)
        # From 0 on it would begin with what is open, which is the same here: nothing is answered.
        for sequence, _, _ in await taken(call, min(5, 24 - len(seen))):
            seen.append(sequence)
            position = sequence
        call.cancel()
    assert seen == list(range(1, 25))
    assert len(set(await asking)) == 24


async def test_the_length_of_the_inbox_is_a_metric(harness: Harness, worker: Worker) -> None:
    def waiting() -> dict[str, float]:
        (metric,) = (found for found in REGISTRY.collect() if found.name == "coxswain_questions_open")
        return {sample.labels["kind"]: sample.value for sample in metric.samples}

    await housekeeping(harness)
    before = waiting()
    assert set(before) == set(QuestionKind)
    _, question_id = await parked(harness, worker)
    await housekeeping(harness)
    approvals = QuestionKind.RESULT_APPROVAL.value
    assert waiting() == before | {approvals: before[approvals] + 1}
    await questions_of(harness, ALICE).AnswerQuestion(accepting(question_id))
    await housekeeping(harness)
    assert waiting() == before
