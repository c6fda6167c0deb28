"""An execution on the terminal while it runs."""

import textwrap
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from coxswain.client.cli.event_lines import EventLines
from coxswain.client.cli.outages import Outages
from coxswain.client.cli.session import harmless
from coxswain.client.errors import CoxswainError
from coxswain.client.progress import Progress, TaskProgress, answering, renewal
from coxswain.orchestrator.v1.execution_pb2 import ExecutionEvent

_STYLES = {
    "pending": ("·", "dim"),
    "waiting": ("?", "yellow"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("-", "dim"),
}
_SHOWN_LINES = 8


class View(Protocol):
    """Shows the events of an execution."""

    progress: Progress

    def show(self, event: ExecutionEvent) -> None:
        """Show the next event."""
        ...

    def lost(self, error: CoxswainError) -> None:
        """Say that the connection was lost; the next event ends that."""
        ...


class PlainView:
    """One line for each event, for logs and pipes."""

    def __init__(self, console: Console, *, whole: bool = False) -> None:
        self.progress = Progress()
        self._console = console
        self._lines = EventLines(whole=whole)
        self._outages = Outages(console)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def show(self, event: ExecutionEvent) -> None:
        self._outages.back()
        self.progress.apply(event)
        if line := self._lines.line(event):
            at = event.time.ToDatetime().strftime("%H:%M:%S") if event.HasField("time") else "--:--:--"
            self._console.print(Text(f"{at} #{event.sequence} {line}"), soft_wrap=True)

    def lost(self, error: CoxswainError) -> None:
        self._outages.lost(error)


class LiveView:
    """A list of tasks with the running answer below, for people."""

    def __init__(self, console: Console, execution_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = Progress()
        self._execution_id = execution_id
        self._clock = clock
        self._arrived = clock()
        self._lost_at: float | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(self, console=console, refresh_per_second=8, transient=False, vertical_overflow="ellipsis")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, event: ExecutionEvent) -> None:
        self.progress.apply(event)
        self._arrived, self._lost_at = self._clock(), None

    def lost(self, error: CoxswainError) -> None:  # noqa: ARG002 - what a terminal shows is since when
        self._lost_at = self._lost_at or self._clock()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress = self.progress
        elapsed = _seconds(self._elapsed(progress.started, progress.ended))
        yield Text.assemble(
            (progress.crew or "execution", "bold"), f"  {self._execution_id}  {progress.state}  {elapsed}"
        )
        yield self._tasks()
        if progress.text and progress.ended is None:
            width = max(options.max_width - 4, 20)
            lines = list(_wrapped(harmless(progress.text), width))[-_SHOWN_LINES:]
            yield Panel(
                Text("\n".join(lines)), title=Text(harmless(progress.text_task)), title_align="left", border_style="dim"
            )
        cost = f", ${progress.cost:.4f}" if progress.cost else ""
        yield Text(f"{progress.input_tokens:,} tokens in, {progress.output_tokens:,} out{cost}", style="dim")
        for question_id in progress.questions:
            yield Text(f"waits for an answer: {answering(question_id)}", style="yellow")
        if self._lost_at is not None:
            passed = _seconds(timedelta(seconds=self._clock() - self._lost_at))
            yield Text(f"the connection was lost {passed} ago; reconnecting", style="yellow")
        if progress.credential_needed:
            yield Text(f"your token has expired: {renewal(self._execution_id)}", style="yellow")

    def _tasks(self) -> Table:
        made = Table(box=None, show_header=False, pad_edge=False)
        for _ in range(3):
            made.add_column(overflow="ellipsis", no_wrap=True)
        for column in range(2):
            made.add_column(justify="right", no_wrap=True, min_width=6 * (1 - column))
        for task in self.progress.tasks.values():
            mark, style = _STYLES.get(task.state, ("", ""))
            elapsed = _seconds(self._elapsed(task.started, task.ended))
            tokens = f"{task.input_tokens + task.output_tokens:,} tokens" if task.calls else ""
            made.add_row(
                Text(mark, style=style) if mark else self._spinner,
                Text(harmless(task.name), style=style),
                Text(harmless(_doing(task)), style="dim"),
                Text(elapsed, style="dim"),
                Text(tokens, style="dim"),
            )
        return made

    def _elapsed(self, started: datetime | None, ended: datetime | None) -> timedelta | None:
        """Time between two of the server's moments; the clocks of both sides are never compared."""
        latest = self.progress.latest
        if started is None or latest is None:
            return None
        if ended is not None:
            return ended - started
        return latest - started + timedelta(seconds=self._clock() - self._arrived)


def execution_view(console: Console, execution_id: str, *, whole: bool = False) -> "LiveView | PlainView":
    """Live on a terminal, else line by line, with the ``whole`` of long texts or without."""
    return LiveView(console, execution_id) if console.is_terminal else PlainView(console, whole=whole)


def follow(view: AbstractContextManager[View], events: Iterable[ExecutionEvent]) -> Progress:
    """Show events until they end."""
    with view as shown:
        for event in events:
            shown.show(event)
        return shown.progress


def _doing(task: TaskProgress) -> str:
    if task.error:
        return task.error
    again = f" (attempt {task.attempt})" if task.attempt > 1 else ""
    return (f"{task.agent}: {task.tool}" if task.tool else task.agent) + again


def _seconds(elapsed: timedelta | None) -> str:
    if elapsed is None:
        return ""
    seconds = max(elapsed.total_seconds(), 0)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02}"


def _wrapped(text: str, width: int) -> Iterable[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, width) or [""]
