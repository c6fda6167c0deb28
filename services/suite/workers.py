"""The worker hosts the suite runs as child processes."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping

import structlog

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.parent_death import die_with_parent

logger = structlog.get_logger(__name__)

_MAX_LINE_BYTES = 1024 * 1024
_RESTART = Backoff(0.5, 10.0)


class WorkerPool:
    """Keeps a number of worker hosts running until it is stopped."""

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        """`environment` is the whole environment of each host."""
        self.count = count
        self._environment = dict(environment)
        self._warm = [asyncio.Event() for _ in range(count)]
        self._processes: dict[int, Process] = {}
        self._background = BackgroundTasks()
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Start all hosts."""
        for slot in range(self.count):
            self._background.start(self._keep(slot))

    async def wait_warm(self) -> None:
        """Wait until each host has announced that it takes executions."""
        for event in self._warm:
            await event.wait()

    async def _keep(self, slot: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.orchestrator.worker",
                env=self._environment,
                stdout=PIPE,
                limit=_MAX_LINE_BYTES,
                # An orphaned host would work beside those of the next start.
                preexec_fn=functools.partial(die_with_parent, os.getpid()),
            )
            self._processes[slot] = process
            if await self._follow(slot, process):
                failures = 0
            code = await process.wait()
            if self._stopping.is_set():
                return
            failures += 1
            pause = round(_RESTART.pause(failures), 2)
            logger.warning("worker_ended", slot=slot, pid=process.pid, exit_code=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _follow(self, slot: int, process: Process) -> bool:
        """Pass a host's standard output on to its end; return whether it became warm, which is announced there."""
        warm = False
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            if _announces_warmth(line):
                warm = True
                self._warm[slot].set()
            else:
                print(f"worker {slot}: {line}", flush=True)
        return warm

    async def stop(self, grace_seconds: float) -> None:
        """Let all hosts drain for at most `grace_seconds`, then kill those that are left."""
        self._stopping.set()
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            self.kill()
        await self._background.stop()

    def kill(self) -> None:
        """End all hosts at once; what they were running is taken over at the next start."""
        for process in self._processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()


async def _lines(stream: StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            # The reader has thrown away what it held of the line; what is left of it comes next.
            yield f"[left out: a line of more than {_MAX_LINE_BYTES} bytes]"
            continue
        if not line:
            return
        yield line.decode(errors="replace").rstrip("\r\n")


def _announces_warmth(line: str) -> bool:
    with contextlib.suppress(ValueError, AttributeError):
        return bool(json.loads(line).get("event") == "worker_ready")
    return False
