"""The crew process's end of the link to its host: blocking calls from any thread, one thread that reads."""

import itertools
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from services.orchestrator.worker.link.framing import Frame, FrameDecoder, RemoteError, encode_frame

Handler = Callable[[Frame], Any]

_READ_BYTES = 256 * 1024


class LinkClosed(ConnectionError):
    """The host is gone, and with it the reason to go on."""


class _Reply:
    __slots__ = ("_arrived", "error", "result")

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None

    def resolve(self, result: Any = None, error: Exception | None = None) -> None:
        self.result, self.error = result, error
        self._arrived.set()

    def wait(self, timeout: float | None) -> bool:
        return self._arrived.wait(timeout)


class Link:
    """Calls the host and serves its calls.

    `serve` reads until the host closes; every call of the host runs in a thread of its own, so that tasks run beside
    each other.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._write_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Reply] = {}
        self._closed = False

    def call(self, method: str, params: Frame, *, timeout: float | None = None) -> Any:
        """Return the host's answer, waiting at most `timeout` seconds.

        Raises:
            RemoteError: the host answered with an error.
            TimeoutError: it did not answer in time; it is told to stop working on it.
            LinkClosed: it is gone.
        """
        number = next(self._numbers)
        reply = self._pending[number] = _Reply()
        try:
            self._send({"call": number, "method": method, "params": params})
            if self._closed:
                raise LinkClosed("the host has closed the link")
            if not reply.wait(timeout):
                self._send({"cancel": number})
                raise TimeoutError(f"{method} got no answer within {timeout:.1f} s")
        finally:
            self._pending.pop(number, None)
        if reply.error is not None:
            raise reply.error
        return reply.result

    def notify(self, method: str, params: Frame) -> None:
        """Tell the host something that needs no answer."""
        self._send({"method": method, "params": params})

    def serve(self, handlers: Mapping[str, Handler]) -> None:
        """Answer the host's calls until it closes the link.

        Raises:
            BadFrame: what came is no frame.
        """
        decoder = FrameDecoder()
        try:
            while data := self._receive():
                for frame in decoder.feed(data):
                    self._take(frame, handlers)
        finally:
            self._closed = True
            for reply in list(self._pending.values()):
                reply.resolve(error=LinkClosed("the host has closed the link"))

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(_READ_BYTES)
        except ConnectionError:
            return b""

    def _take(self, frame: Frame, handlers: Mapping[str, Handler]) -> None:
        if "reply" in frame:
            reply = self._pending.get(frame["reply"])
            if reply is None:
                return  # nobody waits any more
            error = frame.get("error")
            reply.resolve(frame.get("result"), RemoteError.from_json(error) if error is not None else None)
        elif "method" in frame:
            handler = handlers[frame["method"]]
            threading.Thread(target=self._answer, args=(frame, handler), name=frame["method"], daemon=True).start()

    def _answer(self, frame: Frame, handler: Handler) -> None:
        reply: Frame = {"reply": frame["call"]}
        try:
            reply["result"] = handler(frame["params"])
        except RemoteError as error:
            reply["error"] = error.as_json()
        except LinkClosed:
            return
        except Exception as error:  # noqa: BLE001 - whatever went wrong in here, the host has to hear of it
            reply["error"] = RemoteError("INTERNAL", f"{type(error).__name__}: {error}").as_json()
        try:
            self._send(reply)
        except LinkClosed:
            return
        except (TypeError, ValueError) as error:  # too large, or not to be told in JSON
            self._send({"reply": frame["call"], "error": RemoteError("TASK_FAILED", str(error), fatal=True).as_json()})

    def _send(self, frame: Frame) -> None:
        data = encode_frame(frame)
        try:
            with self._write_lock:
                self._connection.sendall(data)
        except OSError as error:
            raise LinkClosed("the host has closed the link") from error
