"""Connections to databases that groups name: to addresses that were checked, encrypted, within a time."""

import asyncio
import contextlib
import ipaddress
import re
import ssl
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from services.common.db.sessions import POSTGRES_SESSION
from services.common.egress import AddressPolicy, is_unknown_name, look_up
from services.common.errors import FailedPrecondition, PermissionDenied
from services.memory.domain.backends import PgvectorConfig, TlsMode
from services.memory.stores.pgvector.answer_room import AnswerRoom
from services.memory.stores.pgvector.dialect import CODEC
from services.memory.stores.pgvector.failures import extension_missing
from services.memory.stores.pgvector.logins import Login
from services.memory.stores.pgvector.watched import WatchedConnection, WatchedLoop

_CLOSE_SECONDS = 1.0
_EXTENSION: Final = (
    "SELECT e.extversion, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
    "WHERE e.extname = 'vector'"
)


@dataclass(frozen=True, slots=True)
class Extension:
    """The installed pgvector."""

    version: tuple[int, ...]
    schema: str


class Connector:
    """Opens single connections."""

    def __init__(
        self, policy: AddressPolicy, room: AnswerRoom, *, connect_seconds: float, statement_seconds: float
    ) -> None:
        """`policy` says which addresses a group may choose, `room` how much servers may send before they are asked
        again, and `statement_seconds` what one statement may take.
        """
        self._policy = policy
        self._connect_seconds = connect_seconds
        self._room = room
        self.statement_seconds = statement_seconds

    async def open(
        self, config: PgvectorConfig, login: Login, *, unlimited: bool = False
    ) -> "tuple[asyncpg.Connection[Any], Extension | None]":
        """Open a connection on which vectors are bytes; without the extension there are no vectors.

        `unlimited` lets statements take as long as they need, as building an index does.

        Raises:
            PermissionDenied: the host is at an address that groups may not choose.
            Exception: what asyncpg and the network fail with; see `failures`.
        """
        async with asyncio.timeout(self._connect_seconds):
            addresses = await self._addresses(config)
            tls = await asyncio.to_thread(_tls, config)
            limit = 0 if unlimited else int(1000 * self.statement_seconds)
            settings = {
                **POSTGRES_SESSION,
                "application_name": "coxswain-memory",
                "statement_timeout": str(limit),
                "lock_timeout": str(limit),
                "search_path": f'"{config.schema}"',
            }
            loop: Any = WatchedLoop(asyncio.get_running_loop(), self._room, login.group_id)
            connection: asyncpg.Connection[Any] = await asyncpg.connect(
                loop=loop,
                connection_class=WatchedConnection,
                host=addresses,
                port=config.port,
                user=login.user,
                password=login.password,
                database=config.database,
                # No word of libpq's environment: neither certificates nor a weaker mode may come from there.
                ssl=tls or False,
                direct_tls=False,
                # The server ends what takes too long; this is for one that does not answer at all.
                command_timeout=None if unlimited else 2 * self.statement_seconds,
                server_settings=settings,
            )
            try:
                return connection, await prepare(connection, config)
            except BaseException:
                connection.terminate()
                raise

    async def close(self, connection: "asyncpg.Connection[Any]") -> None:
        """Close a connection. That the server fails at this, or does not answer, changes nothing of what was done."""
        with contextlib.suppress(Exception):
            await connection.close(timeout=_CLOSE_SECONDS)

    async def _addresses(self, config: PgvectorConfig) -> list[str]:
        """Return the addresses of the host; each of them may be connected to."""
        try:
            found = await look_up(config.host, config.port)
        except OSError as error:
            if is_unknown_name(error):
                raise self._refused(config) from None
            raise
        addresses = list(dict.fromkeys(address for _, address in found))
        encrypted = config.tls_mode is not TlsMode.DISABLE
        for address in addresses:
            if not self._policy.permits(ipaddress.ip_address(address.split("%")[0]), encrypted=encrypted):
                raise self._refused(config)
        return addresses

    def _refused(self, config: PgvectorConfig) -> PermissionDenied:
        return PermissionDenied(
            f"{config.address} may not be connected to from here: databases that a group chooses are reached at public "
            f"addresses and with TLS. Check that there is such a name, or ask the operator to allow other networks "
            f"({self._policy.setting})",
            reason="DESTINATION_NOT_ALLOWED",
            metadata={"origin": f"postgresql://{config.address}"},
        )


async def prepare(connection: "asyncpg.Connection[Any]", config: PgvectorConfig) -> Extension | None:
    """Let a connection find the extension, wherever it is installed, and know its type; None without it."""
    row = await connection.fetchrow(_EXTENSION)
    if row is None:
        return None
    extension = Extension(tuple(int(part) for part in re.findall(r"\d+", row["extversion"])[:3]), row["nspname"])
    path = ", ".join('"' + name.replace('"', '""') + '"' for name in dict.fromkeys((config.schema, extension.schema)))
    await connection.execute("SELECT set_config('search_path', $1, false)", path)
    await connection.set_type_codec("vector", schema=extension.schema, format="binary", **CODEC)
    return extension


def required(extension: Extension | None, config: PgvectorConfig) -> Extension:
    """Return the extension.

    Raises:
        FailedPrecondition: it is not installed.
    """
    if extension is None:
        raise extension_missing(config)
    return extension


class _NamedTls(ssl.SSLContext):
    """Checks the certificate for the host's name, although the connection goes to an address."""

    host = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 - the address
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin TLS with the host's name."""
        return super().wrap_bio(incoming, outgoing, server_side, self.host, session)


def _tls(config: PgvectorConfig) -> ssl.SSLContext | None:
    """Return how to encrypt. To be called in a thread: it reads files.

    Raises:
        FailedPrecondition: the backend's certificates cannot be read.
    """
    if config.tls_mode is TlsMode.DISABLE:
        return None
    context = _NamedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.host = config.host
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.tls_mode is TlsMode.REQUIRE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.ca_certificates:
        try:
            context.load_verify_locations(cadata=config.ca_certificates)
        except (ssl.SSLError, ValueError):
            raise FailedPrecondition(
                "the backend's ca_certificates are not certificates in PEM form: correct them (UpdateMemoryBackend)",
                reason="INVALID_FIELD",
            ) from None
    else:
        context.load_default_certs()
    return context
