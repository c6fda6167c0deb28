"""The service's end of a process that reads what comes from outside; see `helper_program.serve_readings`."""

from pathlib import Path
from typing import Any

import structlog

from services.common.child_process import BadFrame
from services.common.helper_process import HelperProcess

logger = structlog.get_logger(__name__)


class CannotRead(Exception):
    """What was given cannot be read; the text says why, for whoever wrote it."""


class Congested(CannotRead):
    """Others were read for too long before it: it may be tried again."""


class BoundedReader:
    """Reads one thing at a time in a process of its own, started when it is first needed; see `HelperProcess`."""

    def __init__(self, program: Path, *, cpu_seconds: int, longest_seconds: float) -> None:
        """`cpu_seconds` is the processor time of one reading, `longest_seconds` are for it and those before it."""
        self._cpu_seconds = cpu_seconds
        self._helper = HelperProcess(program, longest_seconds=longest_seconds)

    async def read(self, group_id: str, what: str, attached: bytes = b"", **given: Any) -> dict[str, Any]:
        """Return what the reader named `what` makes of what it is given; bytes that are attached are its `content`.

        Raises:
            CannotRead: it cannot be read, or not with the time and memory that a reading has.
            Congested: those before it took too long.
        """
        request = {"what": what, "given": given, "seconds": self._cpu_seconds}
        try:
            response = await self._helper.ask(group_id, request, attached)
        except TimeoutError as error:
            raise Congested("others are being read that take long; try again later") from error
        except (BadFrame, OSError) as error:
            logger.info("reading_given_up", what=what, group_id=group_id, why=type(error).__name__)
            raise CannotRead("it takes too much time or memory to read; divide it, or make it simpler") from error
        if (problem := response.get("problem")) is not None:
            raise CannotRead(problem)
        if (failed := response.get("failed")) is not None:
            logger.info("reading_given_up", what=what, group_id=group_id, why=failed)
            raise CannotRead("it is damaged, or of a form that cannot be read; save it anew, or in another format")
        found: dict[str, Any] = response["found"]
        return found

    async def close(self) -> None:
        """End the process."""
        await self._helper.close()
