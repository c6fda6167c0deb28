"""Several processes that serve one service at one port, and the one that starts them, watches them and ends them.

The kernel gives each new connection to one of them, as all listen with SO_REUSEPORT. A member shows by a pipe that it
works: its first sign says that it serves, and the pipe's end that it has ended.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self

import structlog

from services.common.backoff import Backoff
from services.common.parent_death import die_with_parent
from services.common.process_state import SILENT_SECONDS, TURN_SECONDS, ProcessState
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

_MEMBER = "COXSWAIN_MEMBER"
"""Says to a member which pipe it writes to, and who has started it."""


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

    async def show_life_until(self, stop: asyncio.Event) -> None:
        """Show that this process serves and that its event loop turns, until it is asked to stop."""
        while not stop.is_set():
            # A full pipe has signs enough that nobody has read yet.
            with contextlib.suppress(BlockingIOError):
                os.write(self._pipe, b".")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_SECONDS):
                    await stop.wait()


class _Member:
    """A process of the group. To be used from one event loop."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pipe, write = os.pipe()
        self.process = subprocess.Popen(  # noqa: S603 - the command that has started this process
            command,
            env={**environment, _MEMBER: f"{write}:{os.getpid()}"},
            pass_fds=(write,),
            stdin=subprocess.DEVNULL,
        )
        os.close(write)
        os.set_blocking(self._pipe, False)
        self._seen_at = clock()
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
    def hangs(self) -> bool:
        """Whether it has shown no life lately, though it serves."""
        return self.works and self._clock() - self._seen_at >= SILENT_SECONDS

    def _read(self) -> None:
        if os.read(self._pipe, 4096):
            self.serves, self._seen_at = True, self._clock()
        else:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self.ended.set()
        self.changed.set()

    async def wait(self) -> int:
        """Return its exit code, once it has ended."""
        await self.ended.wait()
        return await asyncio.to_thread(self.process.wait)

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`command` is by default the one that has started this process. `environment_of` gives what a member, by its
        number from 0, has in its environment beside this process's.
        """
        self._name = name
        self._count = count
        self._command = command or [sys.executable, *sys.orig_argv[1:]]
        self._environment_of = environment_of
        self._backoff = backoff or Backoff(1.0, 30.0)
        self._clock = clock
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
            started = [self._begun(len(self._members) + number) for number in range(part)]
            self._members += started
            for member in started:
                await member.changed.wait()
                if not member.serves:
                    raise StartError(f"a process of {self._name} ended with exit code {await member.wait()}")
        return True

    def _works(self) -> bool:
        # One that is being started again is not missed: the kernel leads nobody to it.
        return any(member.works for member in self._members) and not any(member.hangs for member in self._members)

    def _begun(self, number: int) -> _Member:
        return _Member(self._command, {**os.environ, **self._environment_of(number)}, self._clock)

    async def _keep(self, number: int) -> None:
        attempt = 0
        while True:
            member = self._members[number]
            code = await member.wait()
            logger.error("serving_process_ended", name=self._name, exit_code=code)
            attempt = 1 if member.serves else attempt + 1
            await asyncio.sleep(self._backoff.pause(attempt))
            self._members[number] = self._begun(number)


@contextlib.contextmanager
def reserved_port(host: str, port: int, variable: str) -> Iterator[int]:
    """Yield a port of a host that processes of one group may listen at; 0 picks a free one.

    Raises:
        StartError: another process listens there; `variable` is where another port can be chosen.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            with socket.socket(family, kind, protocol) as alone:
                # With SO_REUSEPORT, a process of somebody else's would share the port silently.
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
                alone.listen()
                found: int = alone.getsockname()[1]
            holder.bind((address[0], found, *address[2:]))
        except OSError as error:
            raise StartError(
                f"{host}:{port} cannot be served on: another process may be using it; "
                f"stop that one or choose another port with {variable}"
            ) from error
        yield found
