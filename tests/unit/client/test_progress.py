"""How far an execution is follows from its events alone, whatever they are."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from coxswain.client.cli.event_lines import MAX_SHOWN_TEXT as MAX_LINE_TEXT
from coxswain.client.cli.event_lines import EventLines
from coxswain.client.cli.events import _line
from coxswain.client.cli.live import LiveView, PlainView, execution_view, follow
from coxswain.client.errors import Unavailable
from coxswain.client.progress import MAX_SHOWN_TEXT, Progress, describe
from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1.question_state_pb2 import QuestionState

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(sequence: int, task: str = "", after: float = 0, **what: object) -> pb.ExecutionEvent:
    made = pb.ExecutionEvent(execution_id="e", sequence=sequence, task_name=task, attempt=1, **what)  # type: ignore[arg-type]
    made.time.FromDatetime(START + timedelta(seconds=after))
    return made


QUEUED = event(1, execution_queued=pb.ExecutionQueued(crew_name="brief", task_names=["extract", "edit"]))
RUN = [
    QUEUED,
    event(2, after=1, execution_started=pb.ExecutionStarted(claim=1)),
    event(3, "extract", 1, task_started=pb.TaskStarted(agent_role="Reader")),
    event(4, "extract", 2, llm_call_started=pb.LlmCallStarted(call_id="a", model="m")),
    event(5, "extract", 3, llm_chunk=pb.LlmChunk(call_id="a", text="First ")),
    event(6, "extract", 4, llm_chunk=pb.LlmChunk(call_id="a", text="words")),
    event(
        7,
        "extract",
        5,
        llm_call_completed=pb.LlmCallCompleted(call_id="a", text="First words.", input_tokens=10, output_tokens=3),
    ),
    event(8, "extract", 6, task_completed=pb.TaskCompleted(output=pb.TaskOutput(text="First words."))),
    event(9, "edit", 6, task_started=pb.TaskStarted(agent_role="Editor")),
]
END = event(10, after=9, execution_succeeded=pb.ExecutionSucceeded(result=pb.TaskOutput(text="Brief.")))


def progress_after(*events: pb.ExecutionEvent) -> Progress:
    progress = Progress()
    for one in events:
        progress.apply(one)
    return progress


def test_tasks_tokens_and_text_follow_the_events() -> None:
    progress = progress_after(*RUN[:6])
    assert (progress.crew, progress.state, progress.text) == ("brief", "running", "First words")
    progress = progress_after(*RUN)
    assert {task.name: (task.state, task.agent) for task in progress.tasks.values()} == {
        "extract": ("succeeded", "Reader"),
        "edit": ("running", "Editor"),
    }
    assert (progress.input_tokens, progress.output_tokens) == (10, 3)
    assert progress.tasks["extract"].ended == START + timedelta(seconds=6)


def test_an_answer_whose_pieces_were_pruned_is_shown_whole() -> None:
    assert progress_after(*RUN[:4], RUN[6]).text == "First words."


def test_a_new_answer_takes_the_place_of_the_last() -> None:
    progress = progress_after(*RUN, event(10, "edit", llm_chunk=pb.LlmChunk(call_id="b", text="New")))
    assert (progress.text, progress.text_task) == ("New", "edit")


def test_an_endless_answer_keeps_only_its_end() -> None:
    pieces = [event(number, "edit", llm_chunk=pb.LlmChunk(call_id="b", text="x" * 1000)) for number in range(10, 40)]
    assert len(progress_after(*RUN, *pieces).text) == MAX_SHOWN_TEXT


def test_what_did_not_end_before_the_execution_is_cancelled_with_it() -> None:
    progress = progress_after(*RUN, event(10, after=7, execution_cancelled=pb.ExecutionCancelled()))
    assert [task.state for task in progress.tasks.values()] == ["succeeded", "cancelled"]
    assert progress.ended == START + timedelta(seconds=7)


def test_an_approval_is_waited_for_until_it_is_answered() -> None:
    asked = event(10, "edit", question_raised=pb.QuestionRaised(question_id="q1", text="Good?"))
    parked = event(11, execution_parked=pb.ExecutionParked(state=pb.EXECUTION_STATE_WAITING_FOR_ANSWER))
    progress = progress_after(*RUN, asked, parked)
    assert (progress.questions, progress.state) == (["q1"], "waiting for answer")
    answered = pb.QuestionAnswered(question_id="q1", state=QuestionState.QUESTION_STATE_ACCEPTED)
    progress.apply(event(12, "edit", question_answered=answered))
    assert not progress.questions
    assert describe(asked) == "edit: Good? coxswain answer q1"
    assert describe(event(12, "edit", question_answered=answered)) == "edit: accepted at its deadline"
    output = io.StringIO()
    view = LiveView(Console(file=output, width=60), "e")
    for one in [*RUN, asked, parked]:
        view.show(one)
    Console(file=output, width=60).print(view)
    assert "waits for an answer: coxswain answer q1" in output.getvalue()


def test_who_is_waited_for_with_a_fresh_token_is_told_what_to_type() -> None:
    parked = event(10, execution_parked=pb.ExecutionParked(state=pb.EXECUTION_STATE_WAITING_FOR_CREDENTIAL))
    hint = "coxswain --token FRESH_TOKEN renew e"
    assert describe(parked) == f"waiting for credential: {hint}"
    output = io.StringIO()
    view = LiveView(Console(file=output, width=100), "e")
    for one in [*RUN, parked]:
        view.show(one)
    Console(file=output, width=100).print(view)
    assert hint in output.getvalue()
    view.show(event(11, execution_started=pb.ExecutionStarted(claim=2)))
    assert not view.progress.credential_needed


def test_a_schedule_that_started_nothing_is_told_without_an_execution() -> None:
    said = pb.ExecutionError(reason="NOT_FOUND", message="there is no crew c")
    nothing = pb.ScheduleStartedNothing(schedule_name="nightly", error=said)
    response = pb.WatchExecutionsResponse(event=event(0, schedule_started_nothing=nothing))
    response.event.execution_id = ""
    assert _line(response, EventLines()) == '12:00:00 schedule "nightly" started nothing: there is no crew c'


@pytest.mark.parametrize("live", [True, False])
def test_a_lost_connection_is_said_until_something_comes_again(live: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, width=100)
    now = [100.0]
    view = LiveView(console, "e", lambda: now[0]) if live else PlainView(console)
    view.show(RUN[0])
    view.lost(Unavailable("gone"))
    now[0] += 20
    view.lost(Unavailable("gone"))
    if live:
        console.print(view)
    assert output.getvalue().count("the connection was lost") == 1
    assert ("lost 20.0 s ago; reconnecting" if live else "UTC (UNAVAILABLE)") in output.getvalue()
    view.show(RUN[1])
    assert ("reconnected after" in output.getvalue()) is not live
    output.truncate(0)
    if live:
        console.print(view)
    assert "the connection" not in output.getvalue()


def test_a_task_that_starts_again_after_a_takeover_begins_anew() -> None:
    again = event(11, "edit", 20, task_started=pb.TaskStarted(agent_role="Editor"))
    again.attempt = 2
    progress = progress_after(
        *RUN, event(10, after=19, execution_started=pb.ExecutionStarted(claim=2, takeover=True)), again
    )
    assert (progress.tasks["edit"].attempt, progress.tasks["edit"].started) == (2, START + timedelta(seconds=20))


def test_every_kind_of_event_has_a_line_but_the_pieces_of_answers() -> None:
    for field in pb.ExecutionEvent.DESCRIPTOR.oneofs_by_name["event"].fields:
        made = pb.ExecutionEvent(task_name="t" if not field.name.startswith("execution_") else "")
        getattr(made, field.name).SetInParent()
        assert bool(describe(made)) is (field.name != "llm_chunk"), field.name


def test_an_event_of_a_later_version_is_shown_and_passed_over() -> None:
    assert "does not know" in describe(pb.ExecutionEvent(sequence=3))
    assert progress_after(*RUN, pb.ExecutionEvent(sequence=10)).sequence == 10


@settings(deadline=None)
@given(st.lists(st.sampled_from([*RUN, END]), max_size=30))
def test_events_in_any_order_are_survived(events: list[pb.ExecutionEvent]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    view = LiveView(console, "e")
    with view:
        for one in events:
            view.show(one)
    assert view.progress.input_tokens >= 0


def test_a_terminal_shows_tasks_the_running_answer_and_tokens() -> None:
    output = io.StringIO()
    now = 100.0
    view = LiveView(Console(file=output, force_terminal=True, width=100), "e-1", clock=lambda: now)
    for one in RUN[:6]:
        view.show(one)
    now = 102.0
    console = Console(file=output, width=100)
    console.print(view)
    shown = output.getvalue()
    assert "brief  e-1  running  5.0 s" in shown
    assert "Reader" in shown
    assert "First words" in shown
    assert "0 tokens in, 0 out" in shown


def test_time_shown_never_compares_the_clocks_of_both_sides() -> None:
    now = 5_000_000.0
    output = io.StringIO()
    view = LiveView(Console(file=output, width=100), "e", clock=lambda: now)
    for one in [*RUN, END]:
        view.show(one)
    Console(file=output, width=100).print(view)
    assert "succeeded  8.0 s" in output.getvalue()


def test_a_pipe_gets_one_line_for_each_event() -> None:
    output = io.StringIO()
    view = execution_view(Console(file=output, width=20), "e")
    assert isinstance(view, PlainView)
    follow(view, [*RUN, END])
    lines = output.getvalue().splitlines()
    assert len(lines) == len(RUN) + 1 - 2
    assert lines[0] == "12:00:00 #1 queued: brief, tasks extract, edit"
    assert lines[-1] == "12:00:09 #10 succeeded"


LONG = f"the upstream of 'm' failed with HTTP 500: {'overloaded ' * 40}at last"
FAILING = [
    event(10, "edit", 7, llm_call_failed=pb.LlmCallFailed(call_id="b", message=LONG)),
    event(11, "edit", 7, llm_call_waiting=pb.LlmCallWaiting(model="m", message=LONG)),
    event(12, "edit", 8, llm_call_started=pb.LlmCallStarted(call_id="c", model="m")),
    event(13, "edit", 8, llm_call_failed=pb.LlmCallFailed(call_id="c", message=LONG)),
    event(14, "edit", 8, task_failed=pb.TaskFailed(error=pb.ExecutionError(reason="TASK_FAILED", message=LONG))),
    event(15, after=9, execution_failed=pb.ExecutionFailed(error=pb.ExecutionError(message="another"))),
]


def test_a_long_text_is_shown_once_and_cut() -> None:
    output = io.StringIO()
    follow(execution_view(Console(file=output, width=20), "e"), FAILING)
    failed, waits, asks, again, task, end = output.getvalue().splitlines()
    assert "model call failed: the upstream of 'm' failed with HTTP 500" in failed
    assert failed.endswith("…")
    assert len(failed) < MAX_LINE_TEXT + 50
    assert waits.endswith("UTC: as before")
    assert asks.endswith("asks m")
    assert again.endswith("model call failed: as before")
    assert task.endswith("failed: as before (TASK_FAILED)")
    assert "failed: another" in end
    assert FAILING[0].llm_call_failed.message == LONG, "only the line is cut"


def test_arguments_are_said_again_where_they_are_short_or_another_tool_has_them() -> None:
    def calls(tool: str, arguments: str) -> pb.ExecutionEvent:
        return event(10, "edit", 7, tool_call_started=pb.ToolCallStarted(tool_name=tool, arguments_json=arguments))

    lines, long = EventLines(), json.dumps({"path": "a" * MAX_LINE_TEXT})
    shown = [lines.line(calls(*each)) for each in [("list", "{}"), ("list", "{}"), ("delete", long), ("list", long)]]
    assert [line.partition("tool ")[2][:12] for line in shown] == ["list {}", "list {}", 'delete {"pat', 'list {"path"']
    assert lines.line(calls("list", long)).endswith("tool list as before")


def test_wide_shows_long_texts_whole_each_time() -> None:
    output = io.StringIO()
    follow(execution_view(Console(file=output, width=20), "e", whole=True), FAILING)
    assert output.getvalue().count(LONG) == 4


def test_what_a_model_says_is_never_taken_for_markup() -> None:
    output = io.StringIO()
    view = LiveView(Console(file=output, width=100), "e")
    for one in [*RUN[:4], event(5, "extract", llm_chunk=pb.LlmChunk(call_id="a", text="[/red] [bold"))]:
        view.show(one)
    Console(file=output, width=100).print(view)
    assert "[/red] [bold" in output.getvalue()


def test_what_a_model_says_is_never_obeyed_by_the_terminal() -> None:
    output = io.StringIO()
    view = LiveView(Console(file=output, width=100), "e")
    for one in [*RUN[:4], event(5, "extract", llm_chunk=pb.LlmChunk(call_id="a", text="a \x1b]0;title\x07\r\nb\tc"))]:
        view.show(one)
    shown = io.StringIO()
    Console(file=shown, width=100).print(view)
    assert "a \ufffd]0;title\ufffd" in shown.getvalue()
    assert not set("\x1b\x07\r") & set(shown.getvalue())
