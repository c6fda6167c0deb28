"""The service's end of the process that checks answers against schemas."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from services.common.child_process import BadFrame
from services.common.helper_process import HelperProcess

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("process.py")
MAX_CHARACTERS = 1_000_000
"""Longer answers are not checked."""
# For a check and those of other groups before it. The process itself gives up much earlier.
_LONGEST_SECONDS = 15.0
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found."""

    text: str
    """The JSON that was found in the answer."""
    thoughts: str = ""
    """What stood before it."""
    violations: tuple[str, ...] = ()
    """Paths and rules, with nothing of the answer in them; empty as well where the answer could not be checked."""
    unchecked: str = ""
    """Why the answer could not be checked; empty when it was."""


class SchemaChecker:
    """Checks one answer at a time in a process of its own, started when it is first needed; see `HelperProcess`."""

    def __init__(self) -> None:
        self._helper = HelperProcess(_PROGRAM, longest_seconds=_LONGEST_SECONDS)

    def prepare(self) -> None:
        """Start the process beside what comes before a check, so that this one need not wait for it."""
        self._helper.prepare()

    async def check(self, group_id: str, schema: Mapping[str, Any], text: str) -> Checked:
        """Return the JSON in an answer, and what of it does not follow the schema.

        What takes too long, or cannot be checked, is returned as it is.
        """
        if len(text) > MAX_CHARACTERS:
            return Checked(text, unchecked="length")
        response = await self._ask(group_id, {"schema": schema or _ANY_OBJECT, "text": text})
        if why := response.get("given_up"):
            logger.info("answer_not_checked", group_id=group_id, why=why)
            return Checked(text, unchecked=why)
        return Checked(response["text"], response["thoughts"], tuple(response["violations"]))

    async def close(self) -> None:
        """End the process."""
        await self._helper.close()

    async def _ask(self, group_id: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return await self._helper.ask(group_id, request)
        except TimeoutError:
            return {"given_up": "queue"}
        except (BadFrame, OSError):
            logger.exception("schema_checker_failed")
            return {"given_up": "process"}
