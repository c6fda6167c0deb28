"""The gateway's end of the process that reads what comes from outside."""

from pathlib import Path

from services.common.reading.reader import BoundedReader

_PROGRAM = Path(__file__).with_name("process.py")
_LONGEST_SECONDS = 60.0
"""For one reading and those of other groups before it; the process itself gives up much earlier."""


class BoundedParser(BoundedReader):
    """Reads documents, pages and statements; see `process.read`."""

    def __init__(self, *, cpu_seconds: int = 10) -> None:
        """`cpu_seconds` is the processor time of one reading."""
        super().__init__(_PROGRAM, cpu_seconds=cpu_seconds, longest_seconds=_LONGEST_SECONDS)
