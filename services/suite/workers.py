"""The worker hosts the suite runs as child processes."""

import asyncio
import contextlib
import ctypes
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping

import structlog

logger = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1
_RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
# Looked up before any fork: what runs between fork and exec must not load libraries.
_libc = ctypes.CDLL(None)


class WorkerPool:
    """Keeps a number of worker hosts running until it is stopped."""

    def __init__(self, count: int, environment: Mapping[str, str]) -> None:
        """`environment` is the whole environment of each host."""
        self.count = count
        self._environment = dict(environment)
        self._warm = [asyncio.Event() for _ in range(count)]
        self._processes: dict[int, Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Start all hosts."""
        self._tasks = [asyncio.create_task(self._keep(slot)) for slot in range(self.count)]

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
                preexec_fn=_die_with_parent,
            )
            self._processes[slot] = process
            if await self._follow(slot, process):
                failures = 0
            code = await process.wait()
            if self._stopping.is_set():
                return
            failures += 1
            pause = _RESTART_SECONDS[min(failures, len(_RESTART_SECONDS)) - 1]
            logger.warning("worker_ended", slot=slot, pid=process.pid, exit_code=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _follow(self, slot: int, process: Process) -> bool:
        """Read a host's standard output to its end; return whether it became warm."""
        warm = False
        assert process.stdout is not None
        async for line in process.stdout:
            with contextlib.suppress(ValueError, AttributeError):
                if json.loads(line).get("event") == "worker_ready":
                    warm = True
                    self._warm[slot].set()
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """End all hosts at once; what they were running is taken over at the next start."""
        for process in self._processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()


def _die_with_parent() -> None:
    # An orphaned host would go on working beside those of the next start.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
