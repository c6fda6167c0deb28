"""Several processes that serve one service at one port, and the one that starts them, watches them and ends them.

The kernel gives each new connection to one of them, as all listen with SO_REUSEPORT. A member shows by a pipe that it
works: its first sign says that it serves, and the pipe's end that it has ended.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import structlog

from services.common.backoff import Backoff
from services.common.parent_death import die_with_parent
from services.common.process_state import SILENT_SECONDS, TURN_SECONDS, ProcessState
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

_MEMBER = "COXSWAIN_MEMBER"
"""Says to a member which pipe it writes to, and who has started it."""

_SILENT_TURNS = round(3 * SILENT_SECONDS / TURN_SECONDS)
"""After how many turns without a sign a member is killed: the half minute that Kubernetes gives a process alone.

Turns of the group's own loop: where the whole machine stood still, they did as well.
"""


class Membership:
    """What a process knows of the group that it is a member of."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    @classmethod
    def of_this_process(cls) -> Self | None:
        """Return it, or None in a process that was not started by a group. To be called once.

        From then on the process dies with the one that has started it.
        """
        stated = os.environ.pop(_MEMBER, "")
        if not stated:
            return None
        pipe, parent = map(int, stated.split(":"))
        # What it starts itself must not hold the pipe open after its end.
        os.set_inheritable(pipe, False)
        os.set_blocking(pipe, False)
        die_with_parent(parent)
        return cls(pipe)

    async def show_life(self) -> None:
        """Show that this process serves and that its event loop turns, until cancelled."""
        while True:
            # A full pipe has signs enough that nobody has read yet.
            with contextlib.suppress(BlockingIOError):
                os.write(self._pipe, b".")
            await asyncio.sleep(TURN_SECONDS)


class _Member:
    """A process of the group. To be used from one event loop."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._pipe, write = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603 - the command that has started this process
                command,
                env={**environment, _MEMBER: f"{write}:{os.getpid()}"},
                pass_fds=(write,),
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(write)
        os.set_blocking(self._pipe, False)
        self.silent_turns = 0
        self.serves = False
        self.changed = asyncio.Event()
        """Set when it serves, and when it has ended."""
        self.ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    @property
    def works(self) -> bool:
        """Whether it serves."""
        return self.serves and not self.ended.is_set()

    @property
    def outlives_its_kill(self) -> bool:
        """Whether it has shown no life for so long that it was killed, and is still there."""
        return self.works and self.silent_turns >= 2 * _SILENT_TURNS

    def _read(self) -> None:
        if os.read(self._pipe, 4096):
            self.serves, self.silent_turns = True, 0
        else:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self.ended.set()
        self.changed.set()

    async def wait(self) -> int:
        """Return its exit code, once it has ended."""
        await self.ended.wait()
        # Its pipe has just ended, and it is about to. Not in a thread, which may be what the machine has no room for.
        while (code := self.process.poll()) is None:  # noqa: ASYNC110 - other processes do not tell
            await asyncio.sleep(0.01)
        return code

    def ask_to_stop(self) -> None:
        """Send it SIGTERM, unless it has ended."""
        self.process.send_signal(signal.SIGTERM)


class ProcessGroup:
    """Runs a command in several processes, each started again when it ends without being asked to."""

    def __init__(
        self,
        name: str,
        count: int,
        *,
        environment_of: Callable[[int], Mapping[str, str]],
        command: Sequence[str] = (),
        backoff: Backoff | None = None,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        """`command` is by default the one that has started this process. `environment_of` gives what a member, by its
        number from 0, has in its environment beside this process's. Members are looked at every `turn_seconds`.
        """
        self._name = name
        self._count = count
        self._command = command or [sys.executable, *sys.orig_argv[1:]]
        self._environment_of = environment_of
        self._backoff = backoff or Backoff(1.0, 30.0)
        self._turn_seconds = turn_seconds
        self._members: list[_Member] = []

    async def run(self, state: ProcessState, serving: Callable[[], None]) -> None:
        """Start the processes, call `serving`, and end them when this one is asked to stop; return when all are gone.

        Raises:
            StartError: one ended before it served; it has said why.
        """
        keeping: list[asyncio.Task[None]] = []
        try:
            if not await state.unless_stopped(self._start()):
                return
            state.take_work(self._works)
            serving()
            keeping = [asyncio.create_task(self._keep(number)) for number in range(self._count)]
            await state.stop.wait()
        finally:
            for task in keeping:
                task.cancel()
            for member in self._members:
                member.ask_to_stop()
            for member in self._members:
                await member.wait()

    async def _start(self) -> bool:
        # The first one alone: it upgrades the schema and makes the keys that are missing.
        for part in (1, self._count - 1):
            for _ in range(part):
                try:
                    self._members.append(self._begun(len(self._members)))
                except OSError as error:
                    raise StartError(f"no process of {self._name} can be started: {error.strerror}") from error
            for member in self._members[-part:]:
                await member.changed.wait()
                if not member.serves:
                    raise StartError(f"a process of {self._name} ended with exit code {await member.wait()}")
        return True

    def _works(self) -> bool:
        # One that is being started again is not missed: the kernel leads nobody to it.
        return any(member.works for member in self._members) and not any(
            member.outlives_its_kill for member in self._members
        )

    def _begun(self, number: int) -> _Member:
        return _Member(self._command, {**os.environ, **self._environment_of(number)})

    async def _keep(self, number: int) -> None:
        attempt = 0
        while True:
            member = self._members[number]
            await self._watch(member)
            logger.error("serving_process_ended", name=self._name, exit_code=await member.wait())
            attempt = 1 if member.serves else attempt + 1
            while self._members[number] is member:
                await asyncio.sleep(self._backoff.pause(attempt))
                try:
                    self._members[number] = self._begun(number)
                except OSError as error:
                    logger.warning("serving_process_not_started", name=self._name, error=str(error))
                    attempt += 1

    async def _watch(self, member: _Member) -> None:
        """Return when it has ended. It is killed when it serves and shows no life for long."""
        while not member.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._turn_seconds):
                    await member.ended.wait()
            member.silent_turns += member.works
            if member.silent_turns == _SILENT_TURNS:
                logger.error("serving_process_silent", name=self._name, pid=member.process.pid)
                member.process.kill()
