"""Crew processes, forked from a warm one."""

import array
import asyncio
import contextlib
import contextvars
import itertools
import json
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from coxswain.orchestrator.v1.execution_pb2 import TaskOutput
from coxswain.orchestrator.worker.link_pb2 import (
    CrewReply,
    EvaluateCondition,
    HostRequest,
    MakePlan,
    OpenSession,
    Plan,
    RunTask,
)
from services.common.background import BackgroundTasks
from services.common.containment.contain import Measure
from services.common.remove_tree import remove_tree
from services.orchestrator.worker.host.crew_life import Life
from services.orchestrator.worker.host.metrics import CREW_CPU
from services.orchestrator.worker.link.containment import own_directory
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.host_end import CrewProcessLost, Handler, HostEnd

logger = structlog.get_logger(__name__)

_COMMAND = ("-m", "services.orchestrator.worker.crew.fork_server")
_MAX_MESSAGE = 4096
_CLOSE_SECONDS = 2.0
_REFILL_SECONDS = 0.2
_KILL_SECONDS = 5.0
_GREETING_SECONDS = 60.0


class ForkServerLost(ConnectionError):
    """The fork server ended; crew processes died with it."""


class NotContained(ForkServerLost):
    """The fork server was ended: what has to contain crew processes does not hold."""


class CrewProcess:
    """One crew process. `close` lets it end, `kill` ends it at once.

    Its methods raise TaskError if a request cannot be done, and CrewProcessLost if the process ends before.
    """

    def __init__(self, life: Life, link: HostEnd, server: "ForkServer") -> None:
        self.pid = life.pid
        self._life = life
        self._link = link
        self._server = server

    async def open_session(self, request: OpenSession) -> None:
        """Hand over what its tasks share; always the first request."""
        await self._ask(HostRequest(open_session=request))

    async def run_task(self, index: int, request: RunTask) -> TaskOutput:
        """Have it do one task, and return the output."""
        return (await self._call(HostRequest(task=index, run_task=request))).run_task

    async def condition_holds(self, index: int, request: EvaluateCondition) -> bool:
        """Return whether the condition of a task holds. Raises as `run_task` does."""
        return (await self._call(HostRequest(task=index, evaluate_condition=request))).evaluate_condition.holds

    async def make_plan(self) -> Plan:
        """Have it plan the whole crew."""
        return (await self._call(HostRequest(make_plan=MakePlan()))).make_plan

    async def save_result(self, index: int, result: TaskOutput) -> None:
        """Have it save a result of a task that a person has approved."""
        await self._link.call(HostRequest(task=index, save_result=result))

    async def _call(self, request: HostRequest) -> CrewReply:
        reply = await self._ask(request)
        if reply.WhichOneof("reply") != request.WhichOneof("request"):
            raise TaskError("INTERNAL", "the crew process replied with something else than the request needs")
        return reply

    async def _ask(self, request: HostRequest) -> CrewReply:
        try:
            return await self._link.call(request)
        except CrewProcessLost as lost:
            await self._server.gone(self.pid, _CLOSE_SECONDS)
            lost.status = self._life.status
            raise

    def let_end(self) -> None:
        """Let it end, without waiting for that."""
        self._link.let_end()

    async def close(self) -> None:
        """Let it end, and wait until it is gone; one that does not end is killed."""
        await self._link.close()
        if not await self._server.gone(self.pid, _CLOSE_SECONDS):
            await self._server.kill(self.pid)

    async def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        await self._server.kill(self.pid)
        await self._link.close()


@dataclass(frozen=True, slots=True)
class _Forked:
    """A process that nobody has spoken to yet, and our end of its link."""

    life: Life
    connection: socket.socket


class ForkServer:
    """The process that crew processes are forked from; it is started again when it dies."""

    def __init__(
        self, environment: dict[str, str], python: str = sys.executable, *, require_containment: bool = False
    ) -> None:
        """`environment` is the whole environment of the fork server and of everything forked from it.

        With `require_containment` nothing is forked that is not contained by every measure.
        """
        self._environment = environment
        self._require_containment = require_containment
        self._home = Path(environment["HOME"])
        self._python = python
        self._missing: list[str] | None = None
        """What does not contain crew processes; unknown until the first one could be forked."""
        self._tokens = itertools.count(1)
        self._forking: dict[int, asyncio.Future[Life]] = {}
        self._living: dict[int, Life] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._kept = 0
        """How many processes are forked ahead."""
        self._spares: deque[_Forked] = deque()
        self._forking_ahead: asyncio.Task[None] | None = None
        self._removing = BackgroundTasks()

    async def __aenter__(self) -> Self:
        """Start it; it warms up by itself."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it, and with it every crew process."""
        await self.close()

    def start(self) -> None:
        """Start the process, without waiting for it to be warm."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._home.mkdir(parents=True, exist_ok=True)
            # Started by the main thread: the kernel kills it when the thread that started it ends.
            self._process = subprocess.Popen(  # noqa: S603
                [self._python, *_COMMAND, str(theirs.fileno())],
                env=self._environment,
                cwd=self._home,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control = ours
        self._ready = asyncio.get_running_loop().create_future()
        # Of no execution, although one may have found the former one dead.
        self._reading = asyncio.create_task(self._read(ours, self._ready), context=contextvars.Context())

    async def warm(self) -> None:
        """Wait until crew processes can be forked.

        Raises:
            NotContained: what has to contain crew processes does not hold.
            ForkServerLost: it ended while warming up; its standard error says why.
        """
        if self._ready is None:
            raise ForkServerLost("the fork server was not started")
        await asyncio.shield(self._ready)

    async def fork(
        self, handler: Handler, on_failure: Callable[[BaseException], None], *, may_be_spare: bool = True
    ) -> CrewProcess:
        """Return a new crew process, whose calls `handler` serves (see `HostEnd`).

        One that was forked ahead may have died unnoticed, unless `may_be_spare` is False. A fork server that died is
        started again first.

        Raises:
            ForkServerLost: it died just now.
        """
        if self._reading is None or self._reading.done():
            logger.warning("fork_server_restarted")
            self._discard()
            self.start()
        await self.warm()
        forked = (self._take_spare() if may_be_spare else None) or await self._fork()
        self._refill(_REFILL_SECONDS)
        link = HostEnd(forked.connection, handler, on_failure)
        await link.open()
        return CrewProcess(forked.life, link, self)

    def keep_spares(self, count: int) -> None:
        """From now on have so many processes forked ahead, for those who need one next."""
        self._kept = count
        self._refill()

    def _refill(self, pause: float = 0.0) -> None:
        if self._kept and (self._forking_ahead is None or self._forking_ahead.done()):
            self._forking_ahead = asyncio.create_task(self._fork_ahead(pause), context=contextvars.Context())

    async def _fork_ahead(self, pause: float) -> None:
        # Who has just got a process needs the CPU now.
        await asyncio.sleep(pause)
        # If it fails, whoever needs a process forks one, or finds out why that cannot be done.
        with contextlib.suppress(ForkServerLost):
            while len(self._spares) < self._kept:
                self._spares.append(await self._fork())

    def _take_spare(self) -> _Forked | None:
        while self._spares:
            spare = self._spares.popleft()
            if self._living.get(spare.life.pid) is spare.life:
                return spare
            spare.connection.close()
        return None

    async def _fork(self) -> _Forked:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        token = next(self._tokens)
        forked = self._forking[token] = asyncio.get_running_loop().create_future()
        try:
            with theirs:
                self._send({"fork": token}, theirs.fileno())
                life = await forked
            await self._greeted(life, ours)
        except BaseException:
            ours.close()
            raise
        finally:
            del self._forking[token]
        ours.setblocking(False)
        return _Forked(life, ours)

    async def _greeted(self, life: Life, connection: socket.socket) -> None:
        """Wait for the greeting; a process that hangs instead is killed, and found out as one that has ended."""
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                await life.greeted(connection)
        except TimeoutError:
            logger.warning("crew_process_did_not_begin", pid=life.pid)
            await self.kill(life.pid)

    @property
    def memory_files(self) -> list[int]:
        """Descriptors of the files that say how much memory the crew processes have that there are."""
        return [life.memory_file for life in list(self._living.values()) if life.memory_file is not None]

    async def kill(self, pid: int) -> None:
        """End a crew process and wait until it is gone."""
        if pid not in self._living:
            return
        try:
            self._send({"kill": pid})
        except ForkServerLost:
            return
        if not await self.gone(pid, _KILL_SECONDS):
            # Its closed link ends it too; a fork server that does not answer must not hold up its host.
            logger.warning("crew_process_not_reaped", pid=pid)

    async def gone(self, pid: int, seconds: float) -> bool:
        """Wait for the end of a crew process for a while; return whether it has come."""
        life = self._living.get(pid)
        if life is None:
            return True
        try:
            await asyncio.wait_for(life.over.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the fork server and every crew process."""
        self._kept = 0
        if self._forking_ahead is not None:
            self._forking_ahead.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._control is not None:
            self._control.close()  # which tells it to end
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _KILL_SECONDS)
        self._discard()
        await self._removing.stop()

    def _discard(self) -> None:
        while self._spares:
            self._spares.popleft().connection.close()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            # Nothing is lost: the processes it forked die with it.
            self._process.kill()
            self._process.wait()
            self._process = None

    def _send(self, message: dict[str, int], descriptor: int | None = None) -> None:
        if self._control is None:
            raise ForkServerLost("the fork server is closed")
        ancillary = (
            [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        )
        try:
            self._control.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError as error:
            raise ForkServerLost("the fork server ended") from error

    async def _read(self, control: socket.socket, ready: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        lost = ForkServerLost("the fork server ended")
        try:
            while data := await loop.sock_recv(control, _MAX_MESSAGE):
                self._take(json.loads(data), ready)
        except ConnectionError:
            pass
        finally:
            waiters: list[asyncio.Future[Any]] = [ready, *self._forking.values()]
            for waiting in waiters:
                if not waiting.done():
                    waiting.set_exception(lost)
                    waiting.exception()  # read, so that asyncio does not report it when no caller waits
            for life in self._living.values():
                self._end(life)
            self._living.clear()

    def _learn(self, measures: list[str], ready: asyncio.Future[None]) -> None:
        missing = [measure.value for measure in Measure if measure not in measures]
        if missing != self._missing:
            self._missing = missing
            if missing:
                logger.warning("crew_processes_not_contained", missing=missing, holding=measures)
            else:
                logger.info("crew_processes_contained", holding=measures)
        if missing and self._require_containment:
            assert self._process is not None
            self._process.kill()
            ready.set_exception(NotContained(", ".join(missing)))
            ready.exception()  # read, so that asyncio does not report it when no caller waits
        elif not ready.done():
            ready.set_result(None)

    def _end(self, life: Life) -> None:
        life.end()
        if life.directory is not None:
            self._removing.start(asyncio.to_thread(remove_tree, life.directory))

    def _take(self, message: dict[str, Any], ready: asyncio.Future[None]) -> None:
        if "ready" in message:
            self._learn(message["measures"], ready)
        elif "forked" in message:
            pid, token = message["pid"], message["forked"]
            life = self._living[pid] = Life(pid, self._home / own_directory(pid, token))
            forked = self._forking.get(token)
            if forked is None or forked.cancelled():
                self._send({"kill": message["pid"]})  # its caller has gone
            else:
                forked.set_result(life)
        elif "exited" in message:
            CREW_CPU.inc(message["cpu_seconds"])
            ended = self._living.pop(message["exited"], None)
            if ended is not None:
                ended.status = message["status"]
                self._end(ended)
