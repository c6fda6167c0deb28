"""The helper process that calls litellm, and the calls that are in it.

litellm takes seconds and 190 MB to import, and reads keys from the environment wherever it can: so it runs apart,
started when it is first needed, with an environment that holds nothing but what a program needs to run.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import structlog

from services.common.child_process import BadFrame, ChildProcess, ProcessGone, isolated_python

logger = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("process.py")
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
_STOP_SECONDS = 5.0
_Frame = dict[str, Any]


class LitellmError(Exception):
    """litellm raised an error; `error` describes it."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error.get("code"))
        self.error = error


class LitellmHelper:
    """One run of the process."""

    def __init__(self, process: ChildProcess) -> None:
        self._process = process
        self._ids = itertools.count()
        self._calls: dict[int, asyncio.Queue[_Frame | None]] = {}
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, home: Path) -> "LitellmHelper":
        """Start the process and wait until it takes calls.

        Raises:
            ProcessGone: it ended before.
        """
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True, mode=0o700)
        environment = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))} | {
            "HOME": str(home),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
        }
        # Isolated: the working directory's files, where a .env might lie, do not matter there.
        process = await ChildProcess.start(isolated_python(_PROGRAM), environment=environment, directory=home)
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
        return self._reader is not None and not self._reader.done()

    async def call(self, kind: str, arguments: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Yield the documents of a call; `kind` is "complete", "stream" or "embed".

        Raises:
            LitellmError: litellm raised an error.
            ProcessGone: the process ended.
        """
        call_id = next(self._ids)
        frames: asyncio.Queue[_Frame | None] = asyncio.Queue()
        self._calls[call_id] = frames
        ended = False
        try:
            await self._write({"id": call_id, "kind": kind, "arguments": arguments})
            while True:
                frame = await frames.get() if self.works or not frames.empty() else None
                ended = frame is None or "end" in frame or "error" in frame
                if frame is None:
                    raise ProcessGone("the process has ended")
                if "error" in frame:
                    raise LitellmError(frame["error"])
                if "end" in frame:
                    return
                yield frame["document"]
        finally:
            del self._calls[call_id]
            if not ended and self.works:
                with contextlib.suppress(ProcessGone):
                    await self._write({"id": call_id, "kind": "cancel"})

    async def stop(self) -> None:
        """End the process."""
        if self._reader is not None:
            self._reader.cancel()
        await self._process.stop(_STOP_SECONDS)

    async def _distribute(self) -> None:
        try:
            while (payload := await self._process.read()) is not None:
                frame: _Frame = json.loads(payload)
                if frames := self._calls.get(frame["id"]):
                    frames.put_nowait(frame)
        except BadFrame:
            # The frames after it cannot be read: another process takes the next calls.
            logger.exception("litellm_stopped")
            await self._process.stop()
        finally:
            for frames in self._calls.values():
                frames.put_nowait(None)

    async def _write(self, frame: _Frame) -> None:
        await self._process.write(json.dumps(frame).encode())
