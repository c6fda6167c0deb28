"""The gateway's end of tool processes: started when they are needed, lent to one call at a time, ended when idle."""

import asyncio
import contextlib
import inspect
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.common.background import BackgroundTasks
from services.common.child_process import BadFrame, ChildProcess, ProcessGone
from services.common.remove_tree import remove_tree

_PROGRAM = Path(__file__).with_name("process.py")
# Nothing here is a secret, and nothing else of the gateway's environment is passed on.
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_QUIET = {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OTEL_SDK_DISABLED": "true"}
_ROOM_FOR_THE_REST = 64 * 1024

Frame = dict[str, Any]


class ToolProcessError(Exception):
    """No process can make calls of an entry point, so none was made; the text says why, for people."""


class ToolProcessLost(Exception):
    """The process ended in the middle of a call, or said what cannot be read."""


@dataclass(frozen=True, slots=True)
class ToolProcessLimits:
    """What one tool process may use."""

    memory_mib: int = 512
    cpu_seconds: int = 60
    """Processor time of one call, and of loading the tools."""
    start_seconds: float = 30.0
    max_bytes: int = 16 * 1024 * 1024
    """Largest result."""


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """What a process is for: groups never share one."""

    group_id: str
    entry_point: str


class ToolProcess:
    """A process that has loaded an entry point."""

    def __init__(self, process: ChildProcess, directory: Path, tools: list[Frame]) -> None:
        self._process = process
        self._directory = directory
        self.tools: Mapping[str, Frame] = {tool["name"]: tool for tool in tools}

    @classmethod
    async def start(cls, python: str, entry_point: str, limits: ToolProcessLimits) -> "ToolProcess":
        """Start a process and wait until it has loaded its tools.

        Raises:
            ToolProcessError: it cannot, or takes too long.
        """
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="coxswain-tool-"))
        # Base64 makes files longer by a third.
        max_bytes = limits.max_bytes * 4 // 3 + _ROOM_FOR_THE_REST
        given = {
            "entry_point": entry_point,
            "memory_mib": limits.memory_mib,
            "cpu_seconds": limits.cpu_seconds,
            "max_bytes": max_bytes,
            "remove_tree": inspect.getfile(remove_tree),
        }
        kept = {name: value for name in _KEPT_VARIABLES if (value := os.environ.get(name))}
        process: ChildProcess | None = None
        started = False
        try:
            async with asyncio.timeout(limits.start_seconds):
                process = await ChildProcess.start(
                    [python, "-I", str(_PROGRAM), json.dumps(given)],
                    environment=kept | _QUIET | {"HOME": str(directory), "TMPDIR": str(directory)},
                    directory=directory,
                    max_bytes=max_bytes,
                )
                loaded = cls(process, directory, _tools(await process.read(), entry_point))
            started = True
            return loaded
        except TimeoutError:
            raise ToolProcessError(f"{entry_point} was not loaded within {limits.start_seconds:g} s") from None
        except OSError as error:
            raise ToolProcessError(f"{python} cannot be started: {error.strerror}") from None
        except BadFrame:
            raise ToolProcessError(f"{entry_point} describes its tools with too many words") from None
        finally:
            if not started:
                if process is not None:
                    await process.stop()
                await asyncio.to_thread(remove_tree, directory)

    async def call(self, frame: Frame, on_progress: Callable[[Frame], Awaitable[None]]) -> Frame:
        """Make a call and return the frame of its end.

        Raises:
            ToolProcessLost: there is none.
        """
        try:
            await self._process.write(json.dumps(frame).encode())
            while (payload := await self._process.read()) is not None:
                answer = await asyncio.to_thread(json.loads, payload)
                if answer["call_id"] != frame["call_id"]:
                    # A thread that an earlier call has left behind.
                    continue
                if answer["kind"] != "progress":
                    return dict(answer)
                await on_progress(answer)
        except (BadFrame, ValueError, KeyError, TypeError, RecursionError, ProcessGone):
            raise ToolProcessLost from None
        raise ToolProcessLost

    async def stop(self) -> None:
        """End it at once, with every process that a tool has started."""
        await self._process.stop()
        await asyncio.to_thread(remove_tree, self._directory)


def _tools(payload: bytes | None, entry_point: str) -> list[Frame]:
    if payload is None:
        raise ToolProcessError(f"the process that loads {entry_point} ended: it may need more memory")
    answer = json.loads(payload)
    if answer["kind"] != "loaded":
        raise ToolProcessError(f"{entry_point} cannot be loaded: {answer.get('text') or 'it describes too much'}")
    tools: list[Frame] = answer["tools"]
    return tools


@dataclass(slots=True, eq=False)
class _Idle:
    process: ToolProcess
    timer: asyncio.TimerHandle


@dataclass(slots=True, eq=False)
class _Group:
    turn: asyncio.Semaphore
    waiting: int = 0


@dataclass(slots=True)
class ToolProcesses:
    """The processes of all groups."""

    python: str
    limits: ToolProcessLimits
    idle_seconds: float = 60.0
    most_per_group: int = 4
    most: int = 16
    _idle: dict[ProcessKey, list[_Idle]] = field(default_factory=dict)
    _groups: dict[str, _Group] = field(default_factory=dict)
    _count: int = 0
    _stopping: BackgroundTasks = field(default_factory=BackgroundTasks)

    @contextlib.asynccontextmanager
    async def lent(self, key: ProcessKey) -> AsyncIterator[ToolProcess]:
        """Lend a process for one call; whatever the call ends with but a result ends the process too.

        Raises:
            ToolProcessError: none can be started, or there are too many.
        """
        group = self._groups.setdefault(key.group_id, _Group(asyncio.Semaphore(self.most_per_group)))
        group.waiting += 1
        try:
            async with group.turn:
                process = await self._take(key)
                unharmed = False
                try:
                    yield process
                    unharmed = True
                finally:
                    if unharmed:
                        self._rest(key, process)
                    else:
                        await self._end(process)
        finally:
            group.waiting -= 1
            if not group.waiting:
                del self._groups[key.group_id]

    async def renew(self, key: ProcessKey) -> None:
        """End the processes that make no call, so that the next one loads the tools again."""
        while waiting := self._idle.get(key):
            await self._end(self._wake(key, waiting[-1]))

    async def close(self) -> None:
        """End all processes that make no call."""
        idle = [each for several in self._idle.values() for each in several]
        self._idle.clear()
        for each in idle:
            each.timer.cancel()
        await asyncio.gather(*(self._end(each.process) for each in idle))
        await self._stopping.stop()

    async def _take(self, key: ProcessKey) -> ToolProcess:
        if waiting := self._idle.get(key):
            return self._wake(key, waiting[-1])
        while self._count >= self.most:
            # Others may take the place of what has ended, while it is waited for.
            if not self._idle:
                raise ToolProcessError(f"all {self.most} tool processes are busy; try again later")
            longest_idle = next(iter(self._idle))
            await self._end(self._wake(longest_idle, self._idle[longest_idle][0]))
        self._count += 1
        try:
            return await ToolProcess.start(self.python, key.entry_point, self.limits)
        except BaseException:
            self._count -= 1
            raise

    def _wake(self, key: ProcessKey, idle: _Idle) -> ToolProcess:
        idle.timer.cancel()
        self._idle[key].remove(idle)
        if not self._idle[key]:
            del self._idle[key]
        return idle.process

    def _rest(self, key: ProcessKey, process: ToolProcess) -> None:
        def expire() -> None:
            self._stopping.start(self._end(self._wake(key, idle)))

        idle = _Idle(process, asyncio.get_running_loop().call_later(self.idle_seconds, expire))
        self._idle.setdefault(key, []).append(idle)

    async def _end(self, process: ToolProcess) -> None:
        self._count -= 1
        await process.stop()
