"""The gateway's end of the process that reads what comes from outside."""

from pathlib import Path
from typing import Any

import structlog

from services.common.child_process import BadFrame
from services.common.helper_process import HelperProcess

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("process.py")
_LONGEST_SECONDS = 60.0
"""For one reading and those of other groups before it; the process itself gives up much earlier."""


class CannotRead(Exception):
    """What was given cannot be read; the text says why, for whoever wrote it."""


class BoundedParser:
    """Reads one thing at a time in a process of its own, started when it is first needed; see `HelperProcess`."""

    def __init__(self, *, cpu_seconds: int = 10) -> None:
        """`cpu_seconds` is the processor time of one reading."""
        self._cpu_seconds = cpu_seconds
        self._helper = HelperProcess(_PROGRAM, longest_seconds=_LONGEST_SECONDS)

    async def read(self, group_id: str, what: str, **given: Any) -> dict[str, Any]:
        """Return what the reader named `what` makes of what it is given.

        Raises:
            CannotRead: it cannot be read, or not with the time and memory that a reading has.
        """
        try:
            response = await self._helper.ask(group_id, {"what": what, "given": given, "seconds": self._cpu_seconds})
        except (BadFrame, OSError) as error:
            logger.info("tool_parser_gave_up", group_id=group_id, why=type(error).__name__)
            raise CannotRead("it takes too much time or memory to read") from error
        if (problem := response.get("problem")) is not None:
            raise CannotRead(problem)
        found: dict[str, Any] = response["found"]
        return found

    async def close(self) -> None:
        """End the process."""
        await self._helper.close()
