"""A front of a PostgreSQL server that listens on a socket: port, TLS and passwords, as servers of others have them.

The servers of the tests have neither TLS nor passwords. This one ends TLS, asks for the password as Lakebase does, in
clear within TLS, and passes everything else on. It can break its connections, and ask for what a hostile server would.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SSL_REQUEST = 80877103
_CANCEL_REQUEST = 80877102


def authentication(code: int, said: bytes = b"") -> bytes:
    """Return a message about signing in, without its length; see `PostgresFront.asks`."""
    return b"R" + struct.pack("!I", code) + said


@dataclass
class PostgresFront:
    """Takes the users it has passwords of; `certificate` is what its clients have to trust."""

    socket: str
    certificate: str
    tls: ssl.SSLContext
    passwords: dict[str, str]
    port: int = 0
    is_down: bool = False
    rounds: int = 0
    """Ask for so many rounds of SCRAM instead of the password."""
    asks: list[bytes] = field(default_factory=lambda: [authentication(11, b"r=%(nonce)b,s=c2FsdA==,i=%(rounds)d")])
    """The messages that ask for them, without their lengths."""
    is_answered: bool = False
    """Whether somebody has computed them."""
    accepted: int | None = None
    """Refuse the right password too after so many more logins; None never does."""
    silent_at: bytes = b""
    """Pass nothing on any more, without ending the connection, once these bytes were sent."""
    silenced: int = 0
    """How many connections that happened to."""
    cuts_commits: bool = False
    """Break a connection that commits what it has inserted, before it has the answer."""
    commits_arrive: bool = False
    """Whether the server commits then."""
    cuts: int = 0
    """How often that happened."""
    logins: list[str] = field(default_factory=list)
    """The users that came in."""
    offered: list[str] = field(default_factory=list)
    """The passwords that were sent, right or wrong."""
    cancelled: int = 0
    """How often somebody asked for the end of a statement that another connection runs."""
    _open: set[asyncio.Transport] = field(default_factory=set)

    def cut(self) -> None:
        """Break every connection."""
        for transport in self._open:
            transport.abort()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._open)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if not self.is_down:
                await self._serve(reader, writer)
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        startup = await _startup(reader)
        if struct.unpack_from("!I", startup)[0] == _SSL_REQUEST:
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self.tls)
            startup = await _startup(reader)
        if struct.unpack_from("!I", startup)[0] == _CANCEL_REQUEST:
            await self._cancel(startup)
            return
        words = startup[4:].decode().split("\0")
        user = dict(zip(words[::2], words[1::2], strict=False))["user"]
        if self.rounds:
            await self._ask_for_rounds(reader, writer)
            return
        writer.write(b"R" + struct.pack("!II", 8, 3))
        await writer.drain()
        await reader.readexactly(1)
        [length] = struct.unpack("!I", await reader.readexactly(4))
        password = (await reader.readexactly(length - 4)).rstrip(b"\0").decode()
        self.offered.append(password)
        if self.passwords.get(user) != password or self.accepted == 0:
            said = b"SFATAL\0VFATAL\0C28P01\0Mpassword " + password.encode() + b" is wrong\0\0"
            writer.write(b"E" + struct.pack("!I", len(said) + 4) + said)
            await writer.drain()
            return
        self.logins.append(user)
        if self.accepted is not None:
            self.accepted -= 1
        server, to_server = await asyncio.open_unix_connection(self.socket)
        to_server.write(struct.pack("!I", len(startup) + 4) + startup)
        self._open.add(writer.transport)  # type: ignore[arg-type]
        is_ending = asyncio.Event()
        try:
            await asyncio.gather(
                self._pass_requests_on(reader, to_server, is_ending), _pass_on(server, writer, is_ending)
            )
        finally:
            self._open.discard(writer.transport)
            to_server.transport.abort()

    async def _cancel(self, request: bytes) -> None:
        """Pass a request on that comes alone, and is answered with the end of the connection."""
        self.cancelled += 1
        server, to_server = await asyncio.open_unix_connection(self.socket)
        to_server.write(struct.pack("!I", len(request) + 4) + request)
        await server.read()
        to_server.transport.abort()

    async def _pass_requests_on(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, is_ending: asyncio.Event
    ) -> None:
        has_inserted = False
        while data := await reader.read(65536):
            has_inserted = has_inserted or b"INSERT INTO" in data
            if self.cuts_commits and has_inserted and b"COMMIT" in data:
                self.cuts += 1
                if not self.commits_arrive:
                    break
                is_ending.set()
            if self.silent_at and self.silent_at in data:
                self.silenced += 1
                while await reader.read(65536):
                    pass
                break
            to_server.write(data)
            await to_server.drain()
        to_server.transport.abort()

    async def _ask_for_rounds(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = b"SCRAM-SHA-256\0\0"
        writer.write(b"R" + struct.pack("!II", 8 + len(methods), 10) + methods)
        await writer.drain()
        first = await reader.read(4096)
        nonce = first.split(b"r=", 1)[1].split(b",")[0].rstrip(b"\0") + b"abc"
        for ask in self.asks:
            kind, said = ask[:1], ask[1:] % {b"nonce": nonce, b"rounds": self.rounds}
            writer.write(kind + struct.pack("!I", len(said) + 4) + said)
        await writer.drain()
        self.is_answered = bool(await reader.read(1))


async def _startup(reader: asyncio.StreamReader) -> bytes:
    [length] = struct.unpack("!I", await reader.readexactly(4))
    return await reader.readexactly(length - 4)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_ending: asyncio.Event) -> None:
    while (data := await reader.read(65536)) and not is_ending.is_set():
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


def certificate_for(name: str, directory: Path) -> tuple[str, ssl.SSLContext]:
    """Return a certificate that signs itself, and the server's side of TLS with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    alternative: x509.GeneralName = x509.DNSName(name)
    with contextlib.suppress(ValueError):
        alternative = x509.IPAddress(ipaddress.ip_address(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = directory / f"{name}.pem"
    chain.write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return pem.decode(), context


@asynccontextmanager
async def postgres_front(socket: str, directory: Path, **passwords: str) -> AsyncIterator[PostgresFront]:
    """Serve a front of the server at a socket, for the name "localhost"."""
    certificate, tls = certificate_for("localhost", directory)
    front = PostgresFront(socket, certificate, tls, passwords)
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        front.cut()
