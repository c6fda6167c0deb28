"""Times given as hours or days."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

from coxswain.client.later import timestamp_pb2

_SPAN = re.compile(r"(\d{1,5})([hd])")


def span_from(text: str, option: str, other_choices: str = "") -> timedelta:
    """The span that a text such as 12h or 30d means. Raises typer.BadParameter for another text.

    ``other_choices`` ends the error message with what else the option takes.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"give hours or days, for example 12h or 30d{other_choices}", param_hint=option)
    return timedelta(hours=int(match[1]) * (24 if match[2] == "d" else 1))


def moment_before_now(span: str, option: str = "--since") -> timestamp_pb2.Timestamp:
    """The time that was so long ago. Raises typer.BadParameter for what is not a span."""
    moment = timestamp_pb2.Timestamp()
    moment.FromDatetime(datetime.now(UTC) - span_from(span, option))
    return moment
