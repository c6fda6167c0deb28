"""The gateway's end of the process that reads what comes from outside."""

import asyncio
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from services.common.background import BackgroundTasks
from services.common.child_process import BadFrame, ChildProcess, ProcessGone, isolated_python

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("process.py")
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_LONGEST_SECONDS = 60.0
"""For one reading and those of other groups before it; the process itself gives up much earlier."""


class CannotRead(Exception):
    """What was given cannot be read; the text says why, for whoever wrote it."""


class BoundedParser:
    """Reads one thing at a time in a process of its own, started when it is first needed.

    A group has one reading at a time among those that wait: its hard ones hold up others only for one turn.
    """

    def __init__(self, *, cpu_seconds: int = 10) -> None:
        """`cpu_seconds` is the processor time of one reading."""
        self._cpu_seconds = cpu_seconds
        self._process: ChildProcess | None = None
        self._turn = asyncio.Lock()
        self._groups: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._background = BackgroundTasks()

    async def read(self, group_id: str, what: str, **given: Any) -> dict[str, Any]:
        """Return what the reader named `what` makes of what it is given.

        Raises:
            CannotRead: it cannot be read, or not with the time and memory that a reading has.
        """
        request = json.dumps({"what": what, "given": given, "seconds": self._cpu_seconds}).encode()
        outcome: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        # Beside the call: one that is cancelled would leave its response in the pipe for the next one.
        self._background.start(self._exchange(group_id, request, outcome))
        response = await outcome
        if (problem := response.get("problem")) is not None:
            raise CannotRead(problem)
        found: dict[str, Any] = response["found"]
        return found

    async def close(self) -> None:
        """End the process."""
        await self._background.stop()
        await self._stop()

    async def _exchange(self, group_id: str, request: bytes, outcome: asyncio.Future[Mapping[str, Any]]) -> None:
        response: Mapping[str, Any] = {"problem": "it takes too much time or memory to read"}
        try:
            async with asyncio.timeout(_LONGEST_SECONDS), self._group(group_id), self._turn:
                if not outcome.done():
                    response = await self._ask(request)
        except (ProcessGone, BadFrame, OSError, TimeoutError) as error:
            logger.info("tool_parser_gave_up", group_id=group_id, why=type(error).__name__)
        finally:
            if not outcome.done():
                outcome.set_result(response)

    async def _ask(self, request: bytes) -> Mapping[str, Any]:
        answered = False
        try:
            if self._process is None:
                environment = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))}
                self._process = await ChildProcess.start(isolated_python(_PROGRAM), environment=environment)
            await self._process.write(request)
            payload = await self._process.read()
            if payload is None:
                raise ProcessGone("the process has ended")
            answered = True
        finally:
            if not answered:
                # What it would still say belongs to nobody: the next reading starts another one.
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
