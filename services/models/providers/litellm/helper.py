"""One helper process that calls litellm, and the calls that are in it.

litellm takes seconds and 190 MB to import, and reads keys from the environment wherever it can: so it runs apart, with
an environment that holds nothing but what a program needs to run.
"""

import asyncio
import itertools
import json
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from services.common.child_process import MAX_FRAME_BYTES, BadFrame, ChildProcess, ProcessGone, isolated_python
from services.common.group_lines import wait_without_turn

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("process.py")
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
# No machine's own credentials: neither those of its files nor those its cloud gives to whatever runs on it.
_NO_AMBIENT_CREDENTIALS = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "BOTO_CONFIG": os.devnull,
    "CLOUDSDK_CONFIG": os.devnull,
    "NO_GCE_CHECK": "true",
}
_STOP_SECONDS = 5.0
# Room for the rest of a frame.
_FRAME_MARGIN_BYTES = 64 * 1024
# A part of the helper's window: a report for each small document would cost more than the document.
_REPORTED_BYTES = 64 * 1024
_Frame = dict[str, Any]


class LitellmError(Exception):
    """litellm raised an error; `error` describes it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("code"))
        self.error = error


class HelperLeaves(ProcessGone):
    """A helper takes no more calls: nothing of this one has been done, and another helper can take it."""


@dataclass(slots=True)
class Progress:
    """How far a call has come."""

    sent: bool = False
    """Whether its request has left: from then on the provider works."""


@dataclass(slots=True)
class _Call:
    """What came for a call and has not been taken yet; the helper sends no more than a window of it."""

    progress: Progress
    frames: deque[tuple[_Frame, int]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class LitellmHelper:
    """One run of the process."""

    def __init__(self, process: ChildProcess) -> None:
        self._process = process
        self._ids = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._reader: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._idle = asyncio.Event()

    @classmethod
    async def start(cls, home: Path, max_bytes: int, ports: Iterable[int]) -> "LitellmHelper":
        """Start the process and wait until it takes calls.

        `max_bytes` is the largest answer; upstreams are called at these `ports` alone, where the kernel can see to it.

        Raises:
            ProcessGone: it ended before.
        """
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True, mode=0o700)
        environment = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))} | {
            "HOME": str(home),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            **_NO_AMBIENT_CREDENTIALS,
        }
        # Isolated: the working directory's files, where a .env might lie, do not matter there.
        command = [*isolated_python(_PROGRAM), json.dumps([max_bytes, sorted(ports)])]
        process = await ChildProcess.start(
            command,
            environment=environment,
            directory=home,
            max_bytes=max(MAX_FRAME_BYTES, max_bytes + _FRAME_MARGIN_BYTES),
        )
        helper = cls(process)
        try:
            if await process.read() is None:
                raise ProcessGone("the process ended before it took calls")
        except BaseException:
            await process.stop()
            raise
        helper._reader = asyncio.create_task(helper._distribute())
        return helper

    @property
    def works(self) -> bool:
        """Whether it takes calls."""
        return self._runs and not self._leaving.is_set()

    @property
    def _runs(self) -> bool:
        return self._reader is not None and not self._reader.done()

    @property
    def load(self) -> int:
        """How many calls are in it."""
        return len(self._calls)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ended(self) -> None:
        """Wait until it takes no more calls. Those in it may go on, see `drained`."""
        if self._reader is not None:
            leaving = asyncio.create_task(self._leaving.wait())
            try:
                await asyncio.wait([self._reader, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()

    async def drained(self) -> None:
        """Wait until the last call in it has ended, once it takes no more."""
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def call(
        self, kind: str, arguments: Mapping[str, Any], origin: str, limits: Mapping[str, float], progress: Progress
    ) -> AsyncGenerator[list[Any], None]:
        """Yield the documents of a call, those together that arrived together.

        `kind` is "complete", "stream" or "embed"; nothing of the call is sent to another origin than `origin`. `limits`
        are the seconds in `TimeLimits`; `progress` is kept up to date.

        Raises:
            LitellmError: litellm raised an error.
            BadFrame: the arguments are too large.
            HelperLeaves: the process takes no more calls.
            ProcessGone: the process ended.
        """
        call_id = next(self._ids)
        self._calls[call_id] = call = _Call(progress)
        ended = False
        taken = 0
        try:
            request = {"id": call_id, "kind": kind, "origin": origin, "limits": limits, "arguments": arguments}
            await self._process.write(_encode(request))
            while True:
                while not call.frames:
                    if not self._runs:
                        raise ProcessGone("the process has ended")
                    call.arrived.clear()
                    wait_without_turn()
                    await call.arrived.wait()
                documents: list[Any] = []
                while call.frames and "document" in call.frames[0][0]:
                    frame, size = call.frames.popleft()
                    documents.append(frame["document"])
                    taken += size
                if documents:
                    yield documents
                    # Only now is there room for more: what nobody reads stays at the provider.
                    if taken >= _REPORTED_BYTES:
                        self._process.write_soon(_encode({"id": call_id, "kind": "read", "bytes": taken}))
                        taken = 0
                    continue
                frame, _ = call.frames.popleft()
                ended = True
                if "leaving" in frame:
                    raise HelperLeaves("the process takes no more calls")
                if "error" in frame:
                    raise LitellmError(frame["error"])
                return
        finally:
            del self._calls[call_id]
            if not self._calls:
                self._idle.set()
            if not ended and self._runs:
                # Without waiting: the call upstream ends however busy the pipe is.
                self._process.write_soon(_encode({"id": call_id, "kind": "cancel"}))

    async def stop(self) -> None:
        """End the process."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._process.stop(_STOP_SECONDS)

    async def _distribute(self) -> None:
        try:
            while (payload := await self._process.read()) is not None:
                frame = json.loads(payload)
                if "leaving" in frame:
                    self._leaving.set()
                if (call := self._calls.get(frame["id"])) is None:
                    continue
                if "sent" in frame:
                    call.progress.sent = True
                else:
                    call.frames.append((frame, len(payload)))
                    call.arrived.set()
        except (BadFrame, ValueError, KeyError, TypeError, RecursionError):
            # The frames after it cannot be trusted: another process takes the next calls.
            logger.exception("litellm_stopped")
            await self._process.stop()
        finally:
            self._reader = None
            for call in self._calls.values():
                call.arrived.set()


def _encode(frame: _Frame) -> bytes:
    return json.dumps(frame).encode()
