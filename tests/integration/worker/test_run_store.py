"""What hosts write: nothing of a host that has lost its claim, everything of the one that has it, in one piece."""

from datetime import timedelta

import pytest

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.common.identity.principal import Role
from services.common.ids import new_id
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.execution import (
    ExecutionError,
    ExecutionState,
    ModelWait,
    Success,
    TaskOutput,
    TaskState,
    Usage,
)
from services.orchestrator.domain.gateway_call import CallKey, GatewayCall
from services.orchestrator.domain.question import Answer, Question, QuestionKind, QuestionState
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.events import new_event
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.run_store import Claim, RunStore
from tests.integration.worker.rows import ROOM, claimed, crew, event_rows, execution_row, parked, queue, task_rows
from tests.support.noted_statements import changes_in, noted_statements

S = ExecutionState


async def test_claims_rise_and_only_the_newest_may_write(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    first = await claimed(store, execution_id)
    second = await claimed(store, execution_id)
    assert (first.execution.epoch, second.execution.epoch) == (1, 2)
    with pytest.raises(Fenced):
        async with store.fenced(execution_id, 1, [new_event(parked())]) as write:
            await write.tasks.finish(0, TaskOutput("late"), utc_now())
    with pytest.raises(Fenced):
        await store.confirm_claim(execution_id, 1)
    await store.confirm_claim(execution_id, 2)
    async with store.fenced(execution_id, 2) as write:
        await write.tasks.finish(0, TaskOutput("in time"), utc_now())
    (task,) = await task_rows(database, execution_id)
    assert task.output["text"] == "in time"
    events = await event_rows(database, execution_id)
    assert [event.kind for event in events] == ["execution_started", "execution_started"]
    started = [execution_pb2.ExecutionEvent.FromString(event.payload).execution_started for event in events]
    assert [(event.claim, event.takeover) for event in started] == [(1, False), (2, True)]


async def test_what_waits_for_a_model_is_woken_once_and_goes_on_with_its_wait(
    database: Database, store: RunStore
) -> None:
    now = utc_now()
    wait = ModelWait(
        task_index=0,
        task_name="t",
        model="m",
        reason="UPSTREAM_UNAVAILABLE",
        message="down",
        failures=3,
        since=now - timedelta(minutes=1),
        retry_at=now,
        give_up_at=now + timedelta(minutes=9),
    )
    due, later = [await queue(database, crew("t")) for _ in range(2)]
    for execution_id, wake_at in ((due, now), (later, now + timedelta(hours=1))):
        epoch = (await claimed(store, execution_id)).execution.epoch
        async with store.fenced(execution_id, epoch) as write:
            await write.keep_model_waits([wait])
            await write.park(S.WAITING_FOR_MODEL, wake_at)
    assert not await store.any_waiting(ROOM)
    assert [await store.wake_due(10), await store.wake_due(10)] == [[due], []]
    again = await claimed(store, due)
    assert again.execution.model_waits == (wait,)
    async with store.fenced(due, again.execution.epoch) as write:
        await write.end(S.FAILED, ExecutionError("UPSTREAM_UNAVAILABLE", "down"), utc_now())
    row = await execution_row(database, due)
    assert (row.model_waits, row.wake_at) == (None, None)


async def test_hosts_that_die_are_counted_until_a_task_has_finished(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("one", "two"))

    async def taken(host: str) -> Claim:
        (claim,) = await store.take(host, ROOM)
        return claim

    for died in range(3):
        claim = await taken(f"host-{died}")
        assert claim.execution.lost_hosts == died
        assert await store.take_over({f"host-{died}"}) == [execution_id]
        assert await store.take_over({f"host-{died}"}) == [], "once for each"
    # A host that was told to stop, or is not sure of its lease, gives back what it has.
    claim = await taken("stops")
    assert await store.hand_over("stops") == [execution_id]
    claim = await taken("loses its lease")
    await store.give_back(execution_id, claim.execution.epoch)
    claim = await taken("finishes a task")
    assert claim.execution.lost_hosts == 3
    async with store.fenced(execution_id, claim.execution.epoch) as write:
        await write.tasks.finish(0, TaskOutput("done"), utc_now())
    await store.take_over({"finishes a task"})
    assert (await taken("dies")).execution.lost_hosts == 0
    await store.take_over({"dies"})
    claim = await taken("last")
    assert claim.execution.lost_hosts == 1
    (*_, event) = await event_rows(database, execution_id)
    assert execution_pb2.ExecutionEvent.FromString(event.payload).execution_started.lost_hosts == 1


@pytest.mark.parametrize("state", [S.CANCELLED, S.FAILED])
async def test_the_end_of_an_execution_cancels_its_calls_that_wait(
    database: Database, store: RunStore, state: ExecutionState
) -> None:
    mine, other = await queue(database, crew("waits")), await queue(database, crew("waits"))
    epoch = (await claimed(store, mine)).execution.epoch
    for execution_id in (mine, other):
        call = GatewayCall(
            CallKey("sales", f"call of {execution_id}"), execution_id, "partner", utc_now(), "replica", utc_now()
        )
        async with database.write() as connection:
            assert await GatewayCallRepository(connection).add(call)
    async with store.fenced(mine, epoch) as write:
        await write.end(state, ExecutionError("TASK_FAILED", "no") if state is S.FAILED else None, utc_now())
    async with database.read() as connection:
        keys = [CallKey("sales", f"call of {execution_id}") for execution_id in (mine, other)]
        found = [await GatewayCallRepository(connection).find(key) for key in keys]
    assert [one is not None and one.cancel_requested for one in found] == [True, False]


async def test_an_ended_execution_takes_no_more_writes(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("done", "open"))
    epoch = (await claimed(store, execution_id)).execution.epoch
    async with store.fenced(execution_id, epoch) as write:
        await write.tasks.finish(0, TaskOutput("kept"), utc_now())
        await write.end(S.FAILED, ExecutionError("TASK_FAILED", "no"), utc_now())
    with pytest.raises(Fenced):
        async with store.fenced(execution_id, epoch):
            pass
    row = await execution_row(database, execution_id)
    assert (row.state, row.error["message"], row.ready) == (S.FAILED, "no", False)
    assert [task.state for task in await task_rows(database, execution_id)] == ["SUCCEEDED", "CANCELLED"]


async def test_the_last_task_and_the_execution_end_with_one_statement_each(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("last"))
    epoch = (await claimed(store, execution_id)).execution.epoch
    output, now = TaskOutput("done"), utc_now()
    wait = ModelWait(0, "last", "m", "UPSTREAM_UNAVAILABLE", "down", 1, since=now, retry_at=now, give_up_at=now)
    used, succeeded = Usage(1, 10, 5, 0.25), Success(output, now)
    with noted_statements(database) as statements:
        async with store.fenced(execution_id, epoch, [new_event(parked())], used, succeeded) as write:
            await write.tasks.add_usage(0, used)
            await write.tasks.finish(0, output, now)
    assert changes_in(statements) == [
        "UPDATE executions",
        "INSERT execution_events",
        "INSERT group_events",
        "UPDATE task_runs",
    ]
    row = await execution_row(database, execution_id)
    assert (row.state, row.ready, row.ended_at, row.llm_calls) == (S.SUCCEEDED, False, now, 1)
    async with database.write() as connection:
        await ExecutionRepository(connection).keep_model_waits(execution_id, [wait])
    assert (await execution_row(database, execution_id)).model_waits is None


async def test_an_end_does_not_replace_an_earlier_one(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("done"))
    epoch = (await claimed(store, execution_id)).execution.epoch
    async with store.fenced(execution_id, epoch, succeeded=Success(TaskOutput("kept"), utc_now())) as write:
        await write.end(S.FAILED, ExecutionError("INTERNAL", "late"), utc_now())
    row = await execution_row(database, execution_id)
    assert (row.state, row.error, row.error_reason, row.result["text"]) == (S.SUCCEEDED, None, "", "kept")


async def test_what_fails_within_a_transaction_leaves_no_trace(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    before = await execution_row(database, execution_id)
    with pytest.raises(ZeroDivisionError):
        async with store.fenced(execution_id, epoch, [new_event(parked())], Usage(1, 2, 3, 4.0)) as write:
            await write.tasks.add_usage(0, Usage(1, 2, 3, 4.0))
            raise ZeroDivisionError
    assert await execution_row(database, execution_id) == before
    assert len(await event_rows(database, execution_id)) == 1


async def test_usage_adds_up_on_the_task_and_the_execution(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("one", "two"))
    epoch = (await claimed(store, execution_id)).execution.epoch
    for index in (0, 0, 1):
        usage = Usage(1, 10, 5, 0.25)
        async with store.fenced(execution_id, epoch, used=usage) as write:
            await write.tasks.add_usage(index, usage)
    row = await execution_row(database, execution_id)
    assert (row.llm_calls, row.input_tokens, row.output_tokens, row.cost) == (3, 30, 15, 0.75)
    assert [task.llm_calls for task in await task_rows(database, execution_id)] == [2, 1]


async def test_what_one_transaction_changes_in_a_task_is_one_statement(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("one", "two"))
    epoch = (await claimed(store, execution_id)).execution.epoch
    with noted_statements(database) as statements:
        async with store.fenced(execution_id, epoch) as write:
            await write.tasks.start(0, 1, utc_now())
            await write.tasks.add_usage(0, Usage(1, 10, 5, 0.25))
            await write.tasks.add_usage(0, Usage(1, 1, 1, 0.25))
            await write.tasks.finish(0, TaskOutput("done"), utc_now())
            await write.tasks.start(1, 1, utc_now())
            await write.tasks.add_usage(1, Usage(1, 2, 3, 4.0))
            await write.end(S.FAILED, ExecutionError("TASK_FAILED", "of the crew"), utc_now())
    # The third one ends what is not done.
    assert sum("task_runs" in statement for statement in statements) == 3
    first, second = await task_rows(database, execution_id)
    assert (first.state, first.attempt, first.llm_calls, first.output["text"]) == ("SUCCEEDED", 1, 2, "done")
    assert (second.state, second.attempt, second.llm_calls, second.cost) == ("CANCELLED", 1, 1, 4.0)


async def test_answers_and_tool_calls_are_found_by_the_next_attempt(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("one", "two"))
    epoch = (await claimed(store, execution_id)).execution.epoch
    async with store.fenced(execution_id, epoch) as write:
        await write.keep_answer(0, "hash", 0, b"first")
        await write.keep_answer(0, "hash", 1, b"second")
        await write.keep_answer(0, "hash", 1, b"too late")
        await write.keep_answer(1, "hash", 0, b"of the other task")
        await write.intend_tool_call(0, "sent", "mail", idempotent=False)
        await write.intend_tool_call(0, "open", "mail", idempotent=False)
        await write.end_tool_call(0, "sent", "it is sent", "")
        await write.intend_tool_call(0, "broken", "mail", idempotent=False)
        await write.end_tool_call(0, "broken", "", "no such address")
    assert await store.journaled_responses(execution_id, 0) == {("hash", 0): b"first", ("hash", 1): b"second"}
    calls = await store.tool_calls(execution_id, 0)
    assert {key: (call.state, call.output, call.error) for key, call in calls.items()} == {
        "sent": (ToolCallState.COMPLETED, "it is sent", ""),
        "open": (ToolCallState.INTENT, "", ""),
        "broken": (ToolCallState.FAILED, "", "no such address"),
    }
    # An idempotent tool may be run again.
    async with store.fenced(execution_id, epoch) as write:
        await write.intend_tool_call(0, "open", "mail", idempotent=True)
        await write.end_tool_call(0, "open", "again", "")
    assert (await store.tool_calls(execution_id, 0))["open"].output == "again"


async def test_a_plan_is_a_task_beside_the_crews_own(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    for attempt in (1, 2):
        async with store.fenced(execution_id, epoch) as write:
            await write.start_plan(-1, attempt, utc_now())
    async with store.fenced(execution_id, epoch) as write:
        await write.tasks.finish(-1, TaskOutput("", {"plans": {"0": "p"}}), utc_now())
    again = await claimed(store, execution_id)
    assert [(task.task_index, task.attempt, task.state) for task in again.tasks] == [
        (-1, 2, TaskState.SUCCEEDED),
        (0, 0, TaskState.PENDING),
    ]


def question(execution_id: str) -> Question:
    return Question(
        id=new_id(),
        kind=QuestionKind.RESULT_APPROVAL,
        state=QuestionState.OPEN,
        group_id="sales",
        execution_id=execution_id,
        crew_id="c",
        crew_name="crew",
        task_index=0,
        task_name="t",
        attempt=1,
        text="Good?",
        result=TaskOutput("draft"),
        schema=None,
        role=Role.EDITOR,
        deadline_at=None,
        on_deadline=OnDeadline.DECLINE,
        created_at=utc_now(),
    )


async def test_a_question_is_found_with_the_answer_by_the_next_claim(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    asked = question(execution_id)
    async with store.fenced(execution_id, epoch) as write:
        await write.tasks.start(0, 1, utc_now())
        await write.ask(asked)
        assert await write.open_questions()
        await write.park(S.WAITING_FOR_ANSWER)
    async with database.write() as connection:
        answer = Answer(QuestionState.DECLINED, reason="better")
        await QuestionRepository(connection).answer(asked, answer, "bob", utc_now())
        await ExecutionRepository(connection).wake(execution_id)
    claim = await claimed(store, execution_id)
    assert claim.tasks[0].state is TaskState.WAITING_FOR_ANSWER
    assert (claim.questions[0].id, claim.questions[0].answer) == (asked.id, answer)
    async with store.fenced(execution_id, claim.execution.epoch) as write:
        assert not await write.open_questions()


async def test_parking_lets_tasks_at_work_start_again(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    async with store.fenced(execution_id, epoch) as write:
        await write.tasks.start(0, 1, utc_now())
        await write.park(S.WAITING_FOR_CREDENTIAL)
    assert [task.state for task in await task_rows(database, execution_id)] == ["PENDING"]


async def test_pieces_of_an_answer_are_pruned_and_nothing_else(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    events = [
        new_event(execution_pb2.LlmCallStarted(call_id="a"), call_id="a"),
        new_event(execution_pb2.LlmChunk(call_id="a", text="1"), call_id="a"),
        new_event(execution_pb2.LlmChunk(call_id="b", text="2"), call_id="b"),
        new_event(execution_pb2.LlmCallCompleted(call_id="a", text="1"), call_id="a"),
    ]
    async with store.fenced(execution_id, epoch, events):
        pass
    await store.prune_chunks(execution_id, "a", 1)
    left = [(event.kind, event.call_id) for event in await event_rows(database, execution_id)][1:]
    assert left == [("llm_call_started", "a"), ("llm_chunk", "b"), ("llm_call_completed", "a")]


async def test_what_is_parked_by_a_host_that_was_taken_for_dead_does_not_run(
    database: Database, store: RunStore
) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    await store.take_over({"host"})
    async with store.fenced(execution_id, epoch) as write:
        await write.park(S.WAITING_FOR_ANSWER)
    assert not await store.any_waiting(ROOM)
    assert (await execution_row(database, execution_id)).state == S.WAITING_FOR_ANSWER


async def test_whose_grants_are_revoked_is_stored_when_the_database_is_back(
    database: Database, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = await queue(database)
    epoch = (await claimed(store, execution_id)).execution.epoch
    async with store.fenced(execution_id, epoch) as write:
        await write.end(S.CANCELLED, None, utc_now())
    store.note_revoked(execution_id)

    async def away(*_: object) -> None:
        raise Unavailable("the database does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(ExecutionRepository, "grants_revoked", away)
        with pytest.raises(Unavailable):
            await store.store_revoked()
    assert (await execution_row(database, execution_id)).grant_open
    await store.store_revoked()
    assert not (await execution_row(database, execution_id)).grant_open
