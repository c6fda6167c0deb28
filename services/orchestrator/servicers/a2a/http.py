"""Agent cards over HTTP: a small listener that serves nothing else, in plain HTTP."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import parse_qsl

import h11
import structlog

from services.common.errors import CoxswainError
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

_MOST_CONNECTIONS = 128
_SECONDS = 10.0
"""Within which a request has to come, and its response to be taken."""
_HEADER_BYTES = 16 * 1024
_MAX_AGE = "public, max-age=60"
_VERSION_HEADER, _VERSION_PARAMETER = b"a2a-version", "A2A-Version"

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class CardDocument:
    """A card as it is served."""

    body: bytes
    etag: str
    """Quoted, as headers have it."""
    modified: str
    """When the crew was changed, as headers have it."""


FindCard = Callable[[str, str], Awaitable[CardDocument | None]]
"""Returns the card at a path, for the version of A2A that is asked for (empty: any); None where none is."""


class CardServer:
    """Serves cards at one port."""

    def __init__(self, host: str, port: int, find: FindCard) -> None:
        self._host = host
        self._port = port
        self._find = find
        self._server: asyncio.Server | None = None
        self._open = 0

    @property
    def port(self) -> int:
        """Where it serves, once it is started."""
        return self._port

    async def start(self) -> None:
        """Open the listener. Raises StartError: the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=_HEADER_BYTES)
        except OSError as error:
            raise StartError(
                f"COXSWAIN_ORCHESTRATOR_A2A_HTTP_PORT={self._port} cannot be served on: {error.strerror}"
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Close the listener."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            # What is not taken is waited for here, and not left to the transport without a limit of time.
            writer.transport.set_write_buffer_limits(0)
            async with asyncio.timeout(_SECONDS):
                # Whoever comes to a full listener is not waited for: the next request may find room.
                if self._open <= _MOST_CONNECTIONS:
                    await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()
        except TimeoutError:
            # The system, too, throws away what was not taken.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        finally:
            writer.transport.abort()
            self._open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers: Headers
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        try:
            request = await _read(connection, reader)
        except h11.RemoteProtocolError:
            status, headers, body = HTTPStatus.BAD_REQUEST, [("Content-Length", "0")], b""
        else:
            if request is None:
                return
            status, headers, body = await self._response(request)
        common = [("Connection", "close"), ("X-Content-Type-Options", "nosniff")]
        response = h11.Response(status_code=status.value, reason=status.phrase, headers=[*headers, *common])
        sent = [connection.send(response), connection.send(h11.Data(data=body)), connection.send(h11.EndOfMessage())]
        writer.write(b"".join(data for data in sent if data))
        await writer.drain()

    async def _response(self, request: h11.Request) -> tuple[HTTPStatus, Headers, bytes]:
        if request.method not in {b"GET", b"HEAD"}:
            return HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", "GET, HEAD"), ("Content-Length", "0")], b""
        headers = {name.lower(): value.decode("ascii", errors="replace") for name, value in request.headers}
        path, _, query = request.target.decode("ascii", errors="replace").partition("?")
        asked = headers.get(_VERSION_HEADER) or dict(parse_qsl(query)).get(_VERSION_PARAMETER, "")
        try:
            card = await self._find(path, asked)
        except CoxswainError as error:
            logger.warning("card_not_served", reason=error.reason)
            return HTTPStatus.SERVICE_UNAVAILABLE, [("Retry-After", "1"), ("Content-Length", "0")], b""
        if card is None:
            return HTTPStatus.NOT_FOUND, [("Content-Length", "0")], b""
        caching = [
            ("Cache-Control", _MAX_AGE),
            ("Vary", "A2A-Version"),
            ("ETag", card.etag),
            ("Last-Modified", card.modified),
        ]
        if _is_known(card, headers):
            return HTTPStatus.NOT_MODIFIED, caching, b""
        described = [("Content-Type", "application/json"), ("Content-Length", str(len(card.body)))]
        return HTTPStatus.OK, [*caching, *described], b"" if request.method == b"HEAD" else card.body


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the request of a connection without its body; None when its client is gone."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        data = await reader.read(_HEADER_BYTES)
        if not data:
            return None
        connection.receive_data(data)


def _is_known(card: CardDocument, headers: Mapping[bytes, str]) -> bool:
    if (tags := headers.get(b"if-none-match")) is not None:
        # Where there is a tag, times do not count.
        return "*" in tags or card.etag in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
    since = headers.get(b"if-modified-since")
    if since is None:
        return False
    try:
        return parsedate_to_datetime(card.modified) <= parsedate_to_datetime(since)
    except (ValueError, TypeError, OverflowError):
        return False
