"""The worker hosts the suite runs as child processes."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.parent_death import die_with_parent
from services.common.periodic import once
from services.suite.output import MAX_LINE_BYTES, lines

logger = structlog.get_logger(__name__)

_RESTART = Backoff(0.5, 10.0)
_TICK_SECONDS = 1.0


@dataclass
class _Host:
    """A worker host as its parent sees it."""

    process: Process
    executor_id: str = ""
    """Empty until it takes executions."""
    silent_ticks: int = 0
    """Seconds without a sign of life, counted by the suite: while the suite itself is stopped, none pass."""


class WorkerPool:
    """Keeps a number of worker hosts running until it is stopped."""

    def __init__(
        self,
        count: int,
        environment: Mapping[str, str],
        *,
        silence_seconds: float,
        on_end: Callable[[str], Awaitable[object]],
    ) -> None:
        """`environment` is the whole environment of each host.

        One that shows no sign of life for `silence_seconds` is killed. `on_end` is told the executor id of each host
        that has ended.
        """
        self.count = count
        self._environment = dict(environment)
        self._silence_seconds = silence_seconds
        self._on_end = on_end
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
                "--supervised",
                env=self._environment,
                stdout=PIPE,
                limit=MAX_LINE_BYTES,
                # An orphaned host would work beside those of the next start.
                preexec_fn=functools.partial(die_with_parent, os.getpid()),
            )
            self._processes[slot] = process
            host = _Host(process)
            watching = asyncio.create_task(self._kill_when_silent(slot, host))
            try:
                await self._follow(slot, host)
                code = await process.wait()
            finally:
                watching.cancel()
            if self._stopping.is_set():
                return
            if host.executor_id:
                failures = 0
                # Nobody knows sooner, and others may have to wait for the end of its lease.
                self._background.start(once(functools.partial(self._on_end, host.executor_id), "end_lease"))
            failures += 1
            pause = round(_RESTART.pause(failures), 2)
            logger.warning("worker_ended", slot=slot, pid=process.pid, exit_code=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _follow(self, slot: int, host: _Host) -> None:
        """Pass a host's standard output on to its end, but what it says to its parent."""
        assert host.process.stdout is not None
        async for line in lines(host.process.stdout):
            host.silent_ticks = 0
            match _said(line):
                case "worker_ready", executor_id:
                    host.executor_id = executor_id
                    self._warm[slot].set()
                case "worker_works", _:
                    pass
                case _:
                    print(f"worker {slot}: {line}", flush=True)

    async def _kill_when_silent(self, slot: int, host: _Host) -> None:
        """Kill a host that hangs: its slots would be lost until somebody notices."""
        while host.silent_ticks * _TICK_SECONDS < self._silence_seconds:
            await asyncio.sleep(_TICK_SECONDS)
            if host.executor_id:
                host.silent_ticks += 1
        logger.warning("worker_hangs", slot=slot, pid=host.process.pid)
        with contextlib.suppress(ProcessLookupError):
            host.process.kill()

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


def _said(line: str) -> tuple[str, str]:
    """Return what a host says to its parent, and its executor id; two empty texts if the line is for people."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        said = json.loads(line)
        return str(said.get("event", "")), str(said.get("executor_id", ""))
    return "", ""
