"""What goes on in a group at one moment, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.session import add_row, harmless
from coxswain.client.cli.sums import dollars
from coxswain.client.later import (
    errors,
    execution_pb2,
    progress,
    question_pb2,
    question_state_pb2,
    usage_pb2,
    watching,
    worker_pb2,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

    from coxswain.client.blocking import Client

_MOST = 100
_MOST_QUESTIONS = 20
_CALL_SECONDS = 5.0
_STYLES = {"running": "green", "queued": "dim"}
ResultT = TypeVar("ResultT")


@dataclass
class Overview:
    """The live executions of a group, what they wait for, and what the day has cost."""

    target: str
    time: datetime
    executions: list[execution_pb2.Execution] = field(default_factory=list)
    """Those that run or wait, then those in the queue, each kind with the newest first."""
    questions: list[question_pb2.Question] = field(default_factory=list)
    more_started: bool = False
    """Whether more executions run or wait than these."""
    more_queued: bool = False
    """Whether more executions are in the queue than these."""
    more_questions: bool = False
    """Whether there are more open questions than these."""
    workers: int | None = None
    """Worker hosts that are alive; None where the server does not say."""
    cost: float | None = None
    """Dollars since midnight UTC; None where the server does not say."""
    lost: str = ""
    """Since when the server cannot be reached; what else is here is older then."""

    def figures(self) -> dict[str, Any]:
        """The numbers of the first line, and which of them are not all there are."""
        queued = sum(execution.state == execution_pb2.EXECUTION_STATE_QUEUED for execution in self.executions)
        running = sum(execution.state == execution_pb2.EXECUTION_STATE_RUNNING for execution in self.executions)
        return {
            "running": running,
            "waiting": len(self.executions) - queued - running,
            "more_started": self.more_started,
            "queued": queued,
            "more_queued": self.more_queued,
            "workers": self.workers,
            "questions": len(self.questions),
            "more_questions": self.more_questions,
            "cost_today": self.cost,
        }

    def line(self) -> str:
        """All figures in one line."""
        figures = self.figures()
        started, queued, questions = (
            "+" if more else "" for more in (self.more_started, self.more_queued, self.more_questions)
        )
        parts = [f"{figures['running']}{started} running"]
        parts += [f"{figures['waiting']}{started} waiting"] if figures["waiting"] else []
        parts += [f"{figures['queued']}{queued} queued"]
        parts += [f"{figures['questions']}{questions} to answer"] if self.questions else []
        parts += [] if self.workers is None else [f"{self.workers} workers"]
        parts += [] if self.cost is None else [f"{dollars(self.cost)} today"]
        return ", ".join(parts) + (f"; no connection for {self.lost}" if self.lost else "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.text import Text

        yield Text(f"{self.time:%H:%M:%S} UTC  {harmless(self.target)}", style="dim", no_wrap=True, overflow="ellipsis")
        yield Text(self.line(), style="bold red" if self.lost or self.workers == 0 else "bold")
        yield Text()
        made = Listing("id", "crew", "state", "age", ">tokens", ">cost", "acts for")
        for execution in self.executions:
            usage, state = execution.usage, progress.state_words(execution.state)
            add_row(
                made,
                execution.id,
                f"{execution.crew_name} r{execution.crew_revision}",
                Text(state, style=_STYLES.get(state, "yellow")),
                When(execution.create_time),
                f"{usage.input_tokens + usage.output_tokens:,}",
                dollars(usage.cost) if usage.cost else "",
                execution.subject,
            )
        yield made if self.executions else Text("nothing runs", style="dim")
        if self.questions:
            yield Text()
            asked = Listing("id", "asked", "what")
            for question in self.questions:
                what = question.call.tool_name or question.result.text or "an answer is needed"
                add_row(asked, question.id, When(question.create_time), what)
            yield asked
            yield Text("answer one with: coxswain answer ID", style="yellow")


def overview_of(client: Client, target: str, earlier: Overview | None, *, with_cost: bool) -> Overview:
    """What goes on now; at most five calls. What the server does not tell this caller is None.

    ``with_cost`` asks for the cost anew, which sums up rows; else it is that of the earlier one. Raises CoxswainError.
    """
    now = datetime.now(UTC)
    started = client.executions.ListExecutions(
        execution_pb2.ListExecutionsRequest(states=_started_states(), page_size=_MOST), timeout=_CALL_SECONDS
    )
    # At least one, which says whether there is a queue at all.
    room = max(_MOST - len(started.executions), 1)
    queued = client.executions.ListExecutions(
        execution_pb2.ListExecutionsRequest(states=[execution_pb2.EXECUTION_STATE_QUEUED], page_size=room),
        timeout=_CALL_SECONDS,
    )
    asked = client.questions.ListQuestions(
        question_pb2.ListQuestionsRequest(
            states=[question_state_pb2.QuestionState.QUESTION_STATE_OPEN], page_size=_MOST_QUESTIONS
        ),
        timeout=_CALL_SECONDS,
    )
    hosts = _if_told(lambda: client.workers.ListWorkers(worker_pb2.ListWorkersRequest(), timeout=_CALL_SECONDS))
    cost = earlier.cost if earlier else None
    if with_cost:
        today = usage_pb2.QueryUsageRequest()
        today.start_time.FromDatetime(now.replace(hour=0, minute=0, second=0, microsecond=0))
        used = _if_told(lambda: client.usage.QueryUsage(today, timeout=_CALL_SECONDS))
        cost = None if used is None else sum(row.cost for row in used.rows)
    return Overview(
        target=target,
        time=now,
        executions=[*started.executions, *queued.executions],
        questions=list(asked.questions),
        more_started=bool(started.next_page_token),
        more_queued=bool(queued.next_page_token),
        more_questions=bool(asked.next_page_token),
        workers=None if hosts is None else hosts.worker_count,
        cost=cost,
    )


def lost_since(earlier: Overview, since: datetime) -> Overview:
    """The earlier overview, said to be old."""
    passed = (datetime.now(UTC) - since) // timedelta(seconds=1)
    return Overview(**{**vars(earlier), "lost": f"{passed} s"})


def _if_told(ask: Callable[[], ResultT]) -> ResultT | None:
    try:
        return ask()
    except (errors.PermissionDenied, errors.Unimplemented):
        return None
    except errors.CoxswainError as error:
        if error.reason == "ROLE_REQUIRED":
            return None
        raise


def _started_states() -> list[execution_pb2.ExecutionState.ValueType]:
    """The states of executions that run or wait."""
    others = {0, execution_pb2.EXECUTION_STATE_QUEUED, *watching.TERMINAL_STATES}
    return [state for state in execution_pb2.ExecutionState.values() if state not in others]
