"""The service's end of the process that checks answers against schemas."""

import asyncio
import contextlib
import json
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from services.common.background import BackgroundTasks
from services.common.child_process import BadFrame, ChildProcess, ProcessGone, isolated_python

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("process.py")
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
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
    """Checks one answer at a time in a process of its own, started when it is first needed.

    A group has one check at a time among those that wait: its hard ones hold up its own, and others only for one turn.
    """

    def __init__(self) -> None:
        self._process: ChildProcess | None = None
        self._turn = asyncio.Lock()
        self._groups: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._background = BackgroundTasks()

    def prepare(self) -> None:
        """Start the process beside what comes before a check, so that this one need not wait for it."""
        if self._process is None and not self._turn.locked():
            self._background.start(self._prepare())

    async def check(self, group_id: str, schema: Mapping[str, Any], text: str) -> Checked:
        """Return the JSON in an answer, and what of it does not follow the schema.

        What takes too long, or cannot be checked, is returned as it is.
        """
        if len(text) > MAX_CHARACTERS:
            return Checked(text, unchecked="length")
        request = json.dumps({"schema": schema or _ANY_OBJECT, "text": text}).encode()
        outcome: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        # Beside the call: one that is cancelled would leave its response in the pipe for the next one.
        self._background.start(self._exchange(group_id, request, outcome))
        response = await outcome
        if why := response.get("given_up"):
            logger.info("answer_not_checked", group_id=group_id, why=why)
            return Checked(text, unchecked=why)
        return Checked(response["text"], response["thoughts"], tuple(response["violations"]))

    async def close(self) -> None:
        """End the process."""
        await self._background.stop()
        await self._stop()

    async def _exchange(self, group_id: str, request: bytes, outcome: asyncio.Future[Mapping[str, Any]]) -> None:
        response: Mapping[str, Any] = {"given_up": "process"}
        try:
            async with asyncio.timeout(_LONGEST_SECONDS), self._group(group_id), self._turn:
                if not outcome.done():
                    response = await self._ask(request)
        except TimeoutError:
            response = {"given_up": "queue"}
        except (ProcessGone, BadFrame, OSError):
            logger.exception("schema_checker_failed")
        finally:
            if not outcome.done():
                outcome.set_result(response)

    async def _prepare(self) -> None:
        # A failure comes again, and is logged, when there is something to check.
        with contextlib.suppress(OSError):
            async with self._turn:
                await self._started()

    async def _started(self) -> ChildProcess:
        if self._process is None:
            environment = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))}
            self._process = await ChildProcess.start(isolated_python(_PROGRAM), environment=environment)
        return self._process

    async def _ask(self, request: bytes) -> Mapping[str, Any]:
        answered = False
        try:
            process = await self._started()
            await process.write(request)
            payload = await process.read()
            if payload is None:
                raise ProcessGone("the process has ended")
            answered = True
        finally:
            if not answered:
                # What it would still say belongs to nobody: the next check starts another one.
                await self._stop()
        response: Mapping[str, Any] = json.loads(payload)
        return response

    def _group(self, group_id: str) -> asyncio.Lock:
        lock = self._groups.get(group_id)
        if lock is None:
            lock = self._groups[group_id] = asyncio.Lock()
        return lock

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop()
