"""The crew process's end of the link to its host: blocking calls from any thread, one thread that reads."""

import itertools
import socket
import threading
from collections.abc import Callable

from coxswain.orchestrator.worker.link_pb2 import Cancel, CrewReply, CrewRequest, Frame, HostReply, HostRequest
from services.common.child_process import BadFrame
from services.orchestrator.worker.link.errors import TaskError, error_from_proto, error_to_proto
from services.orchestrator.worker.link.framing import FrameDecoder, encode_frame

Handler = Callable[[HostRequest], CrewReply]

_READ_BYTES = 256 * 1024


class LinkClosed(ConnectionError):
    """The host is gone, and with it the reason to continue."""


class _Pending:
    """A call that waits for its reply."""

    __slots__ = ("_arrived", "_error", "_reply")

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._reply = HostReply()
        self._error: Exception | None = None

    def resolve(self, reply: HostReply) -> None:
        self._reply = reply
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._arrived.set()

    def wait(self, timeout: float | None) -> HostReply:
        if not self._arrived.wait(timeout):
            raise TimeoutError(f"the host did not reply within {timeout:.1f} s")
        if self._error is not None:
            raise self._error
        return self._reply


class CrewEnd:
    """Calls the host and serves its calls.

    `serve` reads until the host closes; every call of the host runs in a thread of its own, so that tasks run beside
    each other.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._write_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._closed = False

    def call(self, request: CrewRequest, *, timeout: float | None = None) -> HostReply:
        """Return the host's reply, waiting at most `timeout` seconds.

        Raises:
            TaskError: the host replied with an error.
            TimeoutError: it did not reply in time; the call is cancelled.
            LinkClosed: it is gone.
        """
        number = next(self._numbers)
        pending = self._pending[number] = _Pending()
        try:
            self._send(Frame(call=number, crew_request=request))
            if self._closed:
                raise LinkClosed("the host has closed the link")
            return pending.wait(timeout)
        except TimeoutError:
            self._send(Frame(call=number, cancel=Cancel()))
            raise
        finally:
            self._pending.pop(number, None)

    def notify(self, request: CrewRequest) -> None:
        """Ask the host for something that needs no reply."""
        self._send(Frame(crew_request=request))

    def serve(self, handler: Handler) -> None:
        """Answer the host's calls until it closes the link.

        Raises:
            BadFrame: the host sent something else than a frame for crew processes.
        """
        decoder = FrameDecoder()
        try:
            while data := self._receive():
                for frame in decoder.feed(data):
                    self._take(frame, handler)
        finally:
            self._closed = True
            for pending in list(self._pending.values()):
                pending.fail(LinkClosed("the host has closed the link"))

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(_READ_BYTES)
        except ConnectionError:
            return b""

    def _take(self, frame: Frame, handler: Handler) -> None:
        pending = self._pending.get(frame.call)
        match frame.WhichOneof("content"):
            case "host_request":
                name = frame.host_request.WhichOneof("request")
                threading.Thread(target=self._answer, args=(frame, handler), name=name, daemon=True).start()
            case "host_reply":
                if pending is not None:
                    pending.resolve(frame.host_reply)
            case "error":
                if pending is not None:
                    pending.fail(error_from_proto(frame.error))
            case content:
                raise BadFrame(f"a host sends no {content}")

    def _answer(self, frame: Frame, handler: Handler) -> None:
        try:
            reply = Frame(call=frame.call, crew_reply=handler(frame.host_request))
        except LinkClosed:
            return
        except TaskError as error:
            reply = Frame(call=frame.call, error=error_to_proto(error))
        except Exception as error:  # noqa: BLE001 - the host has to know of every failure in here
            internal = TaskError("INTERNAL", f"{type(error).__name__}: {error}")
            reply = Frame(call=frame.call, error=error_to_proto(internal))
        try:
            self._send(reply)
        except LinkClosed:
            return
        except BadFrame as error:  # too large
            self._send(Frame(call=frame.call, error=error_to_proto(TaskError("TASK_FAILED", str(error), fatal=True))))

    def _send(self, frame: Frame) -> None:
        data = encode_frame(frame)
        try:
            with self._write_lock:
                self._connection.sendall(data)
        except OSError as error:
            raise LinkClosed("the host has closed the link") from error
