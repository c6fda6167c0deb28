"""The command that shows what goes on: top."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.overview import Overview, lost_since, overview_of
from coxswain.client.cli.session import EXIT_INTERRUPTED, JsonOption, Session, session_of, styled
from coxswain.client.later import errors

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_COST_EVERY_SECONDS = 30.0


def top(
    context: typer.Context,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks, each of at most five calls.")] = 2,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the group's live executions, queue, worker hosts, open questions and the day's cost until q is pressed.

    In a pipe each look is one line.

    Examples:

        coxswain top

        coxswain top --once
    """
    session = session_of(context, as_json)
    with session.client() as client:
        looks = _looks(client, session.connection.target)
        if once:
            first = next(looks)
            return _print(session, first) if session.json else session.out.print(first)
        try:
            if session.json or not session.out.is_terminal:
                for look in looks:
                    _print(session, look)
                    time.sleep(interval)
            else:
                _show(session, looks, interval)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
    return None


def _looks(client: Client, target: str) -> Iterator[Overview]:
    """One overview after another; one that is said to be old while the server cannot be reached after the first."""
    last, lost, asked_cost = None, None, -_COST_EVERY_SECONDS
    while True:
        with_cost = time.monotonic() - asked_cost >= _COST_EVERY_SECONDS
        try:
            last = overview_of(client, target, last, with_cost=with_cost)
        except (errors.Unavailable, errors.DeadlineExceeded):
            if last is None:
                raise
            lost = lost or datetime.now(UTC)
            yield lost_since(last, lost)
        else:
            lost, asked_cost = None, time.monotonic() if with_cost else asked_cost
            yield last


def _print(session: Session, look: Overview) -> None:
    if session.json:
        return session.print_json(
            {
                "time": look.time.isoformat(timespec="seconds"),
                **look.figures(),
                "executions": look.executions,
                "open_questions": look.questions,
                "connected": not look.lost,
            }
        )
    session.out.print(styled(f"{look.time:%H:%M:%S} {look.line()}"), soft_wrap=True)
    return None


def _show(session: Session, looks: Iterator[Overview], interval: float) -> None:
    from rich.live import Live

    # On a screen of its own: what stood on the terminal is there again afterwards.
    with _keyboard() as pressed, Live(console=session.out, screen=True, auto_refresh=False) as live:
        for look in looks:
            live.update(look, refresh=True)
            if pressed(interval):
                return


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """Waits for some seconds, or until q is pressed; then it is true. The terminal is as before at the end."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0] and os.read(descriptor, 1).lower() in {b"q", b""}:
                return True
        return False

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
