"""Times given as hours or days back."""

import re
from datetime import UTC, datetime, timedelta

import typer
from google.protobuf.timestamp_pb2 import Timestamp

_SPAN = re.compile(r"(\d{1,4})([hd])")


def moment_before_now(span: str, option: str = "--since") -> Timestamp:
    """The time that was so long ago. Raises typer.BadParameter for what is not a span."""
    match = _SPAN.fullmatch(span)
    if match is None:
        raise typer.BadParameter("give hours or days, for example 24h or 7d", param_hint=option)
    hours = int(match[1]) * (24 if match[2] == "d" else 1)
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) - timedelta(hours=hours))
    return moment
