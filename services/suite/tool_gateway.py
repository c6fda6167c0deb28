"""The tool gateway the suite runs as a child process: what sources send keeps none of the services waiting."""

import asyncio
import contextlib
import functools
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

import structlog

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.parent_death import die_with_parent
from services.suite.output import MAX_LINE_BYTES, lines

logger = structlog.get_logger(__name__)

_RESTART = Backoff(0.5, 10.0)
_STEADY_SECONDS = 60.0


class ToolGatewayProcess:
    """Keeps a tool gateway running until it is stopped."""

    def __init__(self, socket: Path, environment: Mapping[str, str]) -> None:
        """It serves on a UNIX socket; `environment` is its whole environment."""
        self._socket = socket
        self._environment = dict(environment)
        self._process: Process | None = None
        self._background = BackgroundTasks()
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Start it."""
        self._background.start(self._keep())

    async def _keep(self) -> None:
        failures, loop = 0, asyncio.get_running_loop()
        while not self._stopping.is_set():
            self._socket.unlink(missing_ok=True)
            began = loop.time()
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.orchestrator.tool_gateway",
                "--internal-address",
                f"unix:{self._socket}",
                env=self._environment,
                stdout=PIPE,
                limit=MAX_LINE_BYTES,
                # An orphan would hold the socket of the next start.
                preexec_fn=functools.partial(die_with_parent, os.getpid()),
            )
            assert process.stdout is not None
            async for line in lines(process.stdout):
                print(f"tools: {line}", flush=True)
            code = await process.wait()
            if self._stopping.is_set():
                return
            failures = 1 if loop.time() - began > _STEADY_SECONDS else failures + 1
            pause = round(_RESTART.pause(failures), 2)
            logger.warning("tool_gateway_ended", pid=process.pid, exit_code=code, restart_in_seconds=pause)
            await asyncio.sleep(pause)

    async def stop(self, grace_seconds: float) -> None:
        """Let it drain for at most `grace_seconds`, then kill it."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(grace_seconds):
                    await process.wait()
            except TimeoutError:
                self.kill()
        await self._background.stop()

    def kill(self) -> None:
        """End it at once; what became of its calls is found out at the next start."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
