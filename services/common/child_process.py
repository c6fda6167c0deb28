"""Helper processes: frames on their pipes or sockets, and their life from start to end.

A frame is the length of its payload in four bytes (big-endian), then the payload.
"""

import asyncio
import contextlib
import os
import signal
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

MAX_FRAME_BYTES = 64 * 1024 * 1024

_HEADER = struct.Struct(">I")
_DRAIN_BYTES = 64 * 1024


class BadFrame(ValueError):
    """A frame is larger than the limit; what comes after it cannot be read any more."""


class ProcessGone(ConnectionError):
    """The process has ended."""


def encode_frame(payload: bytes, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Return the bytes of a frame.

    Raises:
        BadFrame: the payload is larger than `max_bytes`.
    """
    _check_length(len(payload), max_bytes)
    return _HEADER.pack(len(payload)) + payload


class FrameDecoder:
    """Turns bytes, however they are divided when they arrive, back into payloads."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the payloads that `data` completes.

        Raises:
            BadFrame: a payload is larger than the limit.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            _check_length(length, self._max_bytes)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield payload


def _check_length(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise BadFrame(f"a frame of {length} bytes is larger than the limit of {max_bytes}")


def isolated_python(program: Path) -> list[str]:
    """Return the command that runs a program by its path.

    Neither the working directory nor variables such as PYTHONPATH decide what it imports.
    """
    return [sys.executable, "-I", str(program)]


async def process_end(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has ended. What it has written and nobody has read is dropped.

    asyncio waits for the pipes too, and does not read on while its buffer is full.
    """
    assert process.stdout is not None
    draining = asyncio.create_task(_drain(process.stdout))
    try:
        await process.wait()
    finally:
        draining.cancel()


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill a process that leads a session of its own, and all of its group; it may have ended before them."""
    # What it has started keeps anybody else from getting its number. Where a process has that, nothing of it is left.
    if process.returncode is None or not _exists(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _drain(output: asyncio.StreamReader) -> None:
    # Where somebody reads already, nothing is left over.
    with contextlib.suppress(RuntimeError, OSError):
        while await output.read(_DRAIN_BYTES):
            pass


class ChildProcess:
    """A process that takes frames on its standard input and gives frames on its standard output."""

    def __init__(self, process: asyncio.subprocess.Process, max_bytes: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._max_bytes = max_bytes

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path | None = None,
        max_bytes: int = MAX_FRAME_BYTES,
    ) -> Self:
        """Start a process with this environment and no other variables.

        Its standard error is discarded: libraries print there what no log may hold.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd=directory,
            start_new_session=True,
        )
        return cls(process, max_bytes)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def write(self, payload: bytes) -> None:
        """Send a frame, and wait while the process has not read what came before.

        Raises:
            BadFrame: the payload is larger than the limit.
            ProcessGone: it has ended.
        """
        try:
            self._input.write(encode_frame(payload, self._max_bytes))
            await self._input.drain()
        except (ConnectionError, RuntimeError) as error:
            raise ProcessGone("the process has ended") from error

    def write_soon(self, payload: bytes) -> None:
        """Send a small frame after what came before, without waiting; nothing happens when the process has ended.

        Raises:
            BadFrame: the payload is larger than the limit.
        """
        frame = encode_frame(payload, self._max_bytes)
        if not self._input.is_closing():
            self._input.write(frame)

    async def read(self) -> bytes | None:
        """Return the payload of the next frame, or None when the process has ended.

        Raises:
            BadFrame: it sent one that is larger than the limit.
        """
        try:
            (length,) = _HEADER.unpack(await self._output.readexactly(_HEADER.size))
            _check_length(length, self._max_bytes)
            return await self._output.readexactly(length)
        except asyncio.IncompleteReadError:
            return None

    async def stop(self, grace: float = 0.0) -> None:
        """Close its standard input, give it `grace` seconds to end, then kill it; return when it is gone.

        What it has started itself is killed with it.
        """
        self._input.close()
        try:
            async with asyncio.timeout(grace):
                await process_end(self._process)
        except TimeoutError:
            pass
        finally:
            # A call that is cancelled here must leave no process behind either, nor what the process has started.
            kill_group(self._process)
            await asyncio.shield(process_end(self._process))
