"""The host's end of the link to a crew process."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

import structlog

from coxswain.orchestrator.worker.link_pb2 import CrewReply, CrewRequest, Frame, HostReply, HostRequest
from services.common.background import BackgroundTasks
from services.common.child_process import BadFrame
from services.common.errors import CoxswainError
from services.orchestrator.worker.link.errors import TaskError, error_from_proto, error_to_proto
from services.orchestrator.worker.link.framing import FrameDecoder, encode_frame

logger = structlog.get_logger(__name__)

Handler = Callable[[CrewRequest], Awaitable[HostReply]]

_READ_BYTES = 256 * 1024


class CrewProcessLost(ConnectionError):
    """The crew process ended, or sent something that is not a valid frame."""

    status: int | None = None
    """Its exit status (negative: the signal that ended it), if it is known."""


class HostEnd:
    """Calls a crew process and serves its calls with one handler.

    What the handler raises as CoxswainError or TaskError reaches the crew process; anything else goes to
    `on_failure`, for it is this process's own trouble. When the link ends, calls still being served are cancelled,
    whose replies have no use any more; notices are served until `close`.
    """

    def __init__(
        self, connection: socket.socket, handler: Handler, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._connection = connection
        self._handler = handler
        self._on_failure = on_failure
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[CrewReply]] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._noticing = BackgroundTasks()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._let_end = False
        self.closed = asyncio.Event()
        """Set once the crew process is gone."""

    async def open(self) -> None:
        """Begin to read."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        self._reading = asyncio.create_task(self._read(reader))

    async def call(self, request: HostRequest) -> CrewReply:
        """Return the crew process's reply.

        Raises:
            TaskError: it replied with an error.
            CrewProcessLost: it ended before.
        """
        number = next(self._numbers)
        reply: asyncio.Future[CrewReply] = asyncio.get_running_loop().create_future()
        self._pending[number] = reply
        try:
            await self._send(Frame(call=number, host_request=request))
            return await reply
        finally:
            del self._pending[number]

    def let_end(self) -> None:
        """Tell the crew process that nothing more will be asked of it; what it has sent is still taken.

        It gets no more replies: calls that it has not taken back end with it.
        """
        self._let_end = True
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write_eof()

    async def close(self) -> None:
        """Close the connection and cancel what is being served."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        for task in self._serving.values():
            task.cancel()
        await asyncio.gather(*self._serving.values(), return_exceptions=True)
        await self._noticing.stop()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = FrameDecoder()
        try:
            while data := await reader.read(_READ_BYTES):
                for frame in decoder.feed(data):
                    self._take(frame)
        except ConnectionError:
            pass
        except BadFrame as error:
            logger.warning("crew_process_misbehaves", error=str(error))
        finally:
            self._end()

    def _end(self) -> None:
        self.closed.set()
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(CrewProcessLost("the crew process ended"))
        for task in self._serving.values():
            task.cancel()

    def _take(self, frame: Frame) -> None:
        number = frame.call
        match frame.WhichOneof("content"):
            case "crew_request":
                self._take_request(number, frame.crew_request)
            case "crew_reply":
                reply = self._pending.get(number)
                if reply is not None and not reply.done():
                    reply.set_result(frame.crew_reply)
            case "error":
                reply = self._pending.get(number)
                if reply is not None and not reply.done():
                    reply.set_exception(error_from_proto(frame.error))
            case "cancel":
                task = self._serving.get(number)
                if task is not None:
                    task.cancel()
            case content:
                raise BadFrame(f"a crew process sends no {content}")

    def _take_request(self, number: int, request: CrewRequest) -> None:
        if request.WhichOneof("request") is None:
            raise BadFrame("a request asks for nothing")
        if number == 0:
            self._noticing.start(self._notice(request))
            return
        if number in self._serving:
            raise BadFrame("a call has the number of another one")
        call = self._serving[number] = asyncio.create_task(self._serve(number, request))
        # Not the call itself, which may be cancelled before its first step.
        call.add_done_callback(lambda _: self._serving.pop(number, None))

    async def _serve(self, number: int, request: CrewRequest) -> None:
        try:
            try:
                reply = Frame(call=number, host_reply=await self._handler(request))
            except TaskError as error:
                reply = Frame(call=number, error=error_to_proto(error))
            except CoxswainError as error:
                reply = Frame(call=number, error=error_to_proto(TaskError(error.reason, error.message)))
            await self._send(reply)
        except CrewProcessLost:
            pass
        except Exception as error:  # noqa: BLE001 - handed on
            self._on_failure(error)

    async def _notice(self, request: CrewRequest) -> None:
        try:
            await self._handler(request)
        except Exception as error:  # noqa: BLE001 - handed on
            self._on_failure(error)

    async def _send(self, frame: Frame) -> None:
        writer = self._writer
        if writer is None or self._let_end or self.closed.is_set():
            raise CrewProcessLost("the crew process ended")
        try:
            writer.write(encode_frame(frame))
            await writer.drain()
        except ConnectionError as error:
            raise CrewProcessLost("the crew process ended") from error
