"""The journal of tool calls: none with side effects runs twice."""

import pytest

from services.orchestrator.domain.execution import Usage
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.domain.tool_usage import ToolCallOutcome
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.usage_total import UsageTotal
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.host.call_world import World


@pytest.mark.parametrize(
    ("known", "idempotent", "done"),
    [
        (None, True, False),
        (None, False, False),
        (ToolCall(ToolCallState.COMPLETED, "42", ""), False, True),
        (ToolCall(ToolCallState.FAILED, "", "no"), False, True),
        (ToolCall(ToolCallState.INTENT, "", ""), True, False),
    ],
)
async def test_a_tool_call_runs_only_if_it_may(
    world: World, known: ToolCall | None, idempotent: bool, done: bool
) -> None:
    if known is not None:
        world.journal.tool_calls["k"] = known
    permission = (await world.ask(begin_tool={"key": "k", "tool": "mail", "idempotent": idempotent})).begin_tool
    assert permission.done is done
    if done:
        assert known is not None
        assert (permission.output, permission.error) == (known.output, known.error)
    # What must not run twice is noted before it runs, and for good.
    assert world.recorder.commits == (known is None and not idempotent)


async def test_a_tool_call_of_unknown_outcome_is_refused(world: World) -> None:
    world.journal.tool_calls["k"] = ToolCall(ToolCallState.INTENT, "", "")
    with pytest.raises(TaskError) as refused:
        await world.ask(begin_tool={"key": "k", "tool": "mail"})
    assert (refused.value.reason, refused.value.fatal) == ("TOOL_OUTCOME_UNKNOWN", True)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_the_outcome_is_stored_at_once_unless_the_tool_may_run_twice(world: World, idempotent: bool) -> None:
    await world.ask(end_tool={"key": "k", "tool": "mail", "idempotent": idempotent, "output": "sent"})
    assert world.recorder.commits == (not idempotent)


async def test_a_call_of_a_crew_process_is_counted_with_what_it_is_summed_by(world: World) -> None:
    await world.ask(begin_tool={"key": "k", "tool": "calculator", "idempotent": True})
    await world.ask(
        end_tool={"key": "k", "tool": "calculator", "idempotent": True, "output": "4 \u20ac", "argument_bytes": 9}
    )
    await world.ask(end_tool={"key": "l", "tool": "calculator", "idempotent": True, "error": "odd"})
    done, failed = world.recorder.tool_calls
    assert (done.group_id, done.subject, done.execution_id, done.crew) == ("sales", "dev|ann", "e", "brief")
    assert (done.task, done.source, done.tool, done.labels) == ("t", "", "calculator", {"team": "a"})
    assert (done.argument_bytes, done.result_bytes, done.cost, done.outcome) == (9, 5, 0.0, ToolCallOutcome.OK)
    assert (failed.outcome, failed.result_bytes) == (ToolCallOutcome.FAILED, 3)
    assert (done.seconds > 0.0, failed.seconds) == (True, 0.0), "of a call whose beginning is not known"
    assert done.id != failed.id
    assert world.usage.value.tool_calls == 2


async def test_tool_events_are_stored_as_they_come(world: World) -> None:
    for name in ("tool_call_started", "tool_call_completed", "tool_call_failed"):
        await world.ask(**{name: {"call_id": "c", "tool_name": "mail"}})
    assert world.kinds == ["ToolCallStarted", "ToolCallCompleted", "ToolCallFailed"]


async def test_a_call_that_an_attempt_has_left_open_counts_toward_no_limit_in_the_next_one(world: World) -> None:
    world.usage = UsageTotal(Usage(), ExecutionLimits(max_tool_calls=1))
    world.calls._tools._meter._usage = world.usage
    await world.ask(begin_tool={"key": "k", "tool": "calculator", "idempotent": True})
    with pytest.raises(TaskError, match="max_tool_calls"):
        await world.ask(begin_tool={"key": "l", "tool": "calculator", "idempotent": True})
    world.calls.begin_task(0, TaskJournal(TaskRef(0, "t", 2)))
    again = (await world.ask(begin_tool={"key": "k", "tool": "calculator", "idempotent": True})).begin_tool
    assert not again.done
