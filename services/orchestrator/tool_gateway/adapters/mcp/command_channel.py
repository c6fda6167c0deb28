"""A local command that speaks over its standard streams: a line for each message."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Self

from services.common.child_process import kill_group, process_end
from services.common.identity.principal import Principal
from services.common.storable import storable
from services.orchestrator.domain.tool_source import LocalCommand, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge, parse_answer
from services.orchestrator.tool_gateway.adapters.mcp.faults import SessionGone
from services.orchestrator.tool_gateway.adapters.mcp.messages import messages_in
from services.orchestrator.tool_gateway.ports import NotSent, OutcomeUnknown

_LAUNCHER = Path(__file__).with_name("launch_command.py")
_READ_BYTES = 64 * 1024
_GRACE_SECONDS = 2.0


class CommandChannel:
    """A running command."""

    def __init__(self, process: asyncio.subprocess.Process, max_bytes: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._max_bytes = max_bytes
        self._input = process.stdin
        self._output = process.stdout

    @classmethod
    async def start(cls, command: LocalCommand, max_bytes: int, max_processes: int) -> Self:
        """Start a command with the variables that it names and no others; `max_bytes` are read of an answer.

        It may add `max_processes` to those of its user, with their threads; 0: any number.
        Its standard error is discarded: programs print there what no log may hold.

        Raises:
            NotSent: it cannot be started.
        """
        await asyncio.to_thread(_require_program, command)
        environment = {name: value for name in command.environment if (value := os.environ.get(name)) is not None}
        request = json.dumps(
            {
                "parent": os.getpid(),
                "command": [command.program, *command.arguments],
                "variables": list(environment),
                "processes": max_processes,
            }
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(_LAUNCHER),
                request,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise NotSent(f"the command cannot be started: {error.strerror}") from error
        return cls(process, max_bytes)

    def act_for(self, source: ToolSourceSpec, principal: Principal) -> None:
        """Do nothing: a command knows no principals."""

    async def send(self, message: bytes) -> None:
        """See `Channel`."""
        if self._process.returncode is not None or self._input.is_closing():
            raise SessionGone("the command has ended")
        try:
            self._input.write(message + b"\n")
            await self._input.drain()
        except (ConnectionError, RuntimeError) as error:
            raise OutcomeUnknown("the command ended while it was given the message") from error

    async def received(self) -> AsyncGenerator[dict[str, Any], None]:
        """See `Channel`."""
        lines = bytearray()
        searched = 0
        while data := await self._output.read(_READ_BYTES):
            lines += data
            while (end := lines.find(b"\n", searched)) >= 0:
                line = bytes(lines[:end]).strip()
                del lines[: end + 1]
                searched = 0
                # Programs print other things too; only what looks like a message is one.
                if line.startswith((b"{", b"[")):
                    for message in messages_in(await parse_answer(line, storable)):
                        yield message
            searched = len(lines)
            if len(lines) > self._max_bytes:
                raise AnswerTooLarge

    async def close(self) -> None:
        """Close its standard input, give it a moment, then kill it and all that it has started."""
        self._input.close()
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await process_end(self._process)
        except TimeoutError:
            pass
        finally:
            kill_group(self._process)
            await asyncio.shield(self._killed())

    async def _killed(self) -> None:
        # A program that has left its group may hold the pipe open for longer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_SECONDS):
                await process_end(self._process)


def _require_program(command: LocalCommand) -> None:
    """Raise NotSent unless there is a program of the name that a command gives, where its process will look for it."""
    path = os.environ.get("PATH", os.defpath) if "PATH" in command.environment else os.defpath
    if shutil.which(command.program, path=path) is None:
        raise NotSent(
            f'there is no program "{command.program}" at the tool gateway that can be run; the operator names it by '
            "its whole path in mcp_command.program"
        )
