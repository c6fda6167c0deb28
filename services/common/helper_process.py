"""A helper process that answers one request at a time, for all groups in turn; see `helper_program` for its own end."""

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.background import BackgroundTasks
from services.common.child_process import BadFrame, ChildProcess, ProcessGone, isolated_python
from services.common.group_lines import wait_without_turn
from services.common.group_turns import GroupTurns

_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_LARGE_BYTES = 256 * 1024
"""Responses from this size on are decoded in a thread, so that others are served."""


class HelperProcess:
    """Runs a program in a process of its own, started when it is first needed, and again when it has ended.

    A group has one request at a time among those that wait: its hard ones hold up others only for one turn.
    """

    def __init__(self, program: Path, *, longest_seconds: float) -> None:
        """`longest_seconds` are for a request and those of other groups before it."""
        self._program = program
        self._longest_seconds = longest_seconds
        self._process: ChildProcess | None = None
        self._turns = GroupTurns(1)
        self._background = BackgroundTasks()

    def prepare(self) -> None:
        """Start the process beside what comes before a request, so that this one need not wait for it."""
        if self._process is None and not self._turns.full():
            self._background.start(self._prepare())

    async def ask(self, group_id: str, request: Mapping[str, Any], attached: bytes = b"") -> Mapping[str, Any]:
        """Return the response to a request, both of them JSON; bytes that are attached come as the key `attached`.

        Raises:
            TimeoutError: it took too long, or those before it did.
            BadFrame, OSError: the process has ended, cannot be started, or has written something unreadable.
        """
        outcome: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        # Beside the call: one that is cancelled would leave its response in the pipe for the next one.
        frames = [_encoded({**request, "attached": True}), attached] if attached else [_encoded(request)]
        exchange = _Exchange(frames, outcome)
        task = self._background.start(self._run(group_id, exchange))
        # `close` may cancel it before it has begun.
        task.add_done_callback(lambda _: _fail(outcome, ProcessGone("the process is being ended")))
        # One whose turn has not come holds its frames for nobody; one that has begun reads its response to the end.
        outcome.add_done_callback(lambda _: exchange.begun or task.cancel())
        wait_without_turn()
        return await outcome

    async def close(self) -> None:
        """End the process."""
        await self._background.stop()
        await self._stop()

    async def _run(self, group_id: str, exchange: "_Exchange") -> None:
        outcome = exchange.outcome
        try:
            async with asyncio.timeout(self._longest_seconds), self._turns.place(group_id):
                if outcome.done():
                    return
                exchange.begun = True
                payload = await self._answer_by_a_live_one(exchange.frames)
            if not outcome.done():
                response = await _decoded(payload)
                if not outcome.done():
                    outcome.set_result(response)
        except (BadFrame, OSError) as error:
            _fail(outcome, error)

    async def _answer_by_a_live_one(self, request: Sequence[bytes]) -> bytes:
        """Ask once more where the process was there before: it may have ended since, of something else."""
        if self._process is not None:
            with contextlib.suppress(BadFrame, OSError):
                return await self._answer(request)
        return await self._answer(request)

    async def _answer(self, request: Sequence[bytes]) -> bytes:
        answered = False
        try:
            process = await self._started()
            for frame in request:
                await process.write(frame)
            payload = await process.read()
            if payload is None:
                raise ProcessGone("the process has ended")
            answered = True
        finally:
            if not answered:
                # What it would still say belongs to nobody: the next request starts another one.
                await self._stop()
        return payload

    async def _prepare(self) -> None:
        # A failure comes again when there is something to ask.
        with contextlib.suppress(OSError):
            async with self._turns.place(""):
                await self._started()

    async def _started(self) -> ChildProcess:
        if self._process is None:
            environment = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))}
            self._process = await ChildProcess.start(isolated_python(self._program), environment=environment)
        return self._process

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop()


@dataclass(slots=True)
class _Exchange:
    """A request and its response."""

    frames: Sequence[bytes]
    outcome: asyncio.Future[Mapping[str, Any]]
    begun: bool = False
    """Whether its turn has come."""


def _encoded(request: Mapping[str, Any]) -> bytes:
    return json.dumps(request).encode()


async def _decoded(payload: bytes) -> Mapping[str, Any]:
    response: Mapping[str, Any] = (
        json.loads(payload) if len(payload) < _LARGE_BYTES else await asyncio.to_thread(json.loads, payload)
    )
    return response


def _fail(outcome: asyncio.Future[Mapping[str, Any]], error: Exception) -> None:
    if not outcome.done():
        outcome.set_exception(error)
