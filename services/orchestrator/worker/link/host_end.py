"""The host's end of the link to a crew process."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from services.common.errors import CoxswainError
from services.orchestrator.worker.link.framing import BadFrame, Frame, FrameDecoder, RemoteError, encode_frame

logger = structlog.get_logger(__name__)

Handler = Callable[[str, Frame], Awaitable[Any]]

_READ_BYTES = 256 * 1024


class CrewProcessLost(ConnectionError):
    """The crew process ended, or sent what is no frame."""


class HostLink:
    """Calls a crew process and serves its calls with one handler.

    What the handler raises as CoxswainError or RemoteError reaches the crew process; anything else goes to
    `on_failure`, for it is this process's own trouble. When the link ends, calls still being served are cancelled,
    for nobody waits for their answers; what was told without waiting is served until `close`.
    """

    def __init__(
        self, connection: socket.socket, handler: Handler, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._connection = connection
        self._handler = handler
        self._on_failure = on_failure
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._noticing: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()
        """Set once the crew process is gone."""

    async def open(self) -> None:
        """Begin to read."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        self._reading = asyncio.create_task(self._read(reader))

    async def call(self, method: str, params: Frame) -> Any:
        """Return the crew process's answer.

        Raises:
            RemoteError: it answered with an error.
            CrewProcessLost: it ended before.
        """
        number = next(self._numbers)
        reply = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send({"call": number, "method": method, "params": params})
            return await reply
        finally:
            del self._pending[number]

    async def close(self) -> None:
        """Close the connection and cancel what is being served."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        for task in (*self._serving.values(), *self._noticing):
            task.cancel()
        await asyncio.gather(*self._serving.values(), *self._noticing, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        decoder = FrameDecoder()
        try:
            while data := await reader.read(_READ_BYTES):
                for frame in decoder.feed(data):
                    self._take(frame)
        except ConnectionError:
            pass
        except (BadFrame, KeyError, TypeError) as error:
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
        if "reply" in frame:
            reply = self._pending.get(frame["reply"])
            if reply is not None and not reply.done():
                error = frame.get("error")
                if error is None:
                    reply.set_result(frame.get("result"))
                else:
                    reply.set_exception(RemoteError.from_json(error))
        elif "cancel" in frame:
            task = self._serving.get(frame["cancel"])
            if task is not None:
                task.cancel()
        elif "call" in frame:
            number = frame["call"]
            if number in self._serving:
                raise BadFrame("a call has the number of another one")
            call = self._serving[number] = asyncio.create_task(self._serve(number, frame["method"], frame["params"]))
            # Not the call itself, which may be cancelled before its first step.
            call.add_done_callback(lambda _: self._serving.pop(number, None))
        else:
            notice = asyncio.create_task(self._notice(frame["method"], frame["params"]))
            self._noticing.add(notice)
            notice.add_done_callback(self._noticing.discard)

    async def _serve(self, number: int, method: str, params: Frame) -> None:
        try:
            try:
                reply = {"reply": number, "result": await self._handler(method, params)}
            except RemoteError as error:
                reply = {"reply": number, "error": error.as_json()}
            except CoxswainError as error:
                reply = {"reply": number, "error": RemoteError(error.reason, error.message).as_json()}
            await self._send(reply)
        except CrewProcessLost:
            pass
        except Exception as error:  # noqa: BLE001 - handed on
            self._on_failure(error)

    async def _notice(self, method: str, params: Frame) -> None:
        try:
            await self._handler(method, params)
        except Exception as error:  # noqa: BLE001 - handed on
            self._on_failure(error)

    async def _send(self, frame: Frame) -> None:
        writer = self._writer
        if writer is None or self.closed.is_set():
            raise CrewProcessLost("the crew process ended")
        try:
            writer.write(encode_frame(frame))
            await writer.drain()
        except ConnectionError as error:
            raise CrewProcessLost("the crew process ended") from error
