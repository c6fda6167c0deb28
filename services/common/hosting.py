"""One process that serves one service or several: what it opens, and in which order it opens and closes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from services.common.background import BackgroundTasks
from services.common.db.connection_budget import read_connection_budget
from services.common.db.connection_metrics import count_connections
from services.common.db.database import Database, described_url
from services.common.db.migrate import SchemaState, schema_state, upgrade_database
from services.common.db.start import Reached, database_faults, wait_for_database
from services.common.grpc.group_traffic import SHARE_SECONDS, GroupTraffic
from services.common.grpc.peers import Peers
from services.common.grpc.server import Listener, Listeners
from services.common.grpc.tls import channel_tls, server_credentials
from services.common.identity.authenticator import Authenticator
from services.common.identity.principal_token import PrincipalVerifier
from services.common.identity.remote import RemoteIdentity
from services.common.identity.service_identity import ServiceIdentity, ServiceTokenVerifier
from services.common.paced_cancel import finish_cancelling
from services.common.paging import seal_page_tokens
from services.common.periodic import every
from services.common.ports import cannot_serve
from services.common.runtime import Runtime
from services.common.service import IdentityProvider, Service
from services.common.settings import CommonSettings, database_url, direct_database_url, service_of
from services.common.startup import StartError

logger = structlog.get_logger(__name__)

# How soon a process learns that somebody's access was changed or revoked.
_ACCESS_CHANGES_SECONDS = 2.0

ServiceT = TypeVar("ServiceT", bound=Service)
Build = Callable[[Any, Runtime], ServiceT]
"""A service's composition root: its settings and its runtime in, the service out."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A service that was built, and what it was given."""

    name: str
    service: Service
    runtime: Runtime


class Host:
    """Builds services, serves them and closes them."""

    def __init__(self, settings: CommonSettings, addresses: Mapping[str, str], *, shares_ports: bool = False) -> None:
        """`addresses` tells where this process finds the internal listener of each service; `shares_ports` whether
        other processes serve at the same ports.

        Raises:
            StartError: development identities would be reachable by others.
        """
        try:
            settings.refuse_unsafe_identity()
        except ValueError as error:
            raise StartError(str(error)) from error
        self._settings = settings
        self._addresses = addresses
        self._shares_ports = shares_ports
        self._hosted: list[Hosted] = []
        self._listeners: list[Listener] = []
        self._verifier_channel: Peers | None = None
        self._background = BackgroundTasks()

    async def runtime(self, name: str, *, migrate: bool = True) -> Runtime:
        """Return what service `name` is given, its schema brought up to date or checked."""
        settings = self._settings
        data_dir = settings.data_dir.absolute()
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StartError(f'COXSWAIN_DATA_DIR="{data_dir}" cannot be made a directory: {error.strerror}') from error
        owner = service_of(name)
        url = database_url(settings, owner)
        with database_faults(owner, url):
            reached = await wait_for_database(url, owner, settings.database_wait_seconds)
        null_pool = reached.pooler if settings.null_pool is None else settings.null_pool
        database = Database(url, owner, null_pool=null_pool, pooler=reached.pooler)
        count_connections(owner, database)
        direct = await self._direct(owner, database, reached)
        if migrate:
            await self._migrate(owner, direct or database)
        if not reached.pooler:
            await self._warn_of_connections(database)
        return Runtime(
            settings=settings,
            database=database,
            direct_database=direct,
            peers=self.peers(name),
            identity=self._identity(name),
            data_dir=data_dir,
        )

    async def _warn_of_connections(self, database: Database) -> None:
        budget = await read_connection_budget(database)
        if budget is not None and budget.missing:
            logger.warning(
                "too_few_connections",
                database=described_url(database.url.render_as_string(hide_password=False)),
                allowed=budget.allowed,
                pooled=budget.pooled,
                others=budget.others,
                missing=budget.missing,
            )

    def peers(self, name: str) -> Peers:
        """Return channels on which this process acts as service `name`."""
        settings = self._settings
        return Peers(
            self._addresses,
            self._identity(name),
            timeout_seconds=settings.peer_timeout_seconds,
            max_message_bytes=settings.max_message_bytes,
            tls=channel_tls(settings),
        )

    def _identity(self, name: str) -> ServiceIdentity:
        try:
            return ServiceIdentity.load(
                self._settings.keys_directory, name, create=self._settings.identity_mode == "dev"
            )
        except ValueError as error:
            raise StartError(str(error)) from error

    async def _direct(self, name: str, database: Database, reached: Reached) -> Database | None:
        """Return what leads to the database without a pooler in between."""
        url = direct_database_url(self._settings, name)
        if not url:
            # The others need no session of their own.
            if reached.pooler and name == "orchestrator":
                logger.warning("pooler_without_direct_database", name=name)
            return None if reached.pooler else database
        with database_faults(name, url):
            direct = await wait_for_database(url, name, self._settings.database_wait_seconds)
        variable = f"COXSWAIN_DIRECT_DATABASE_URL, or that of {name} alone,"
        if direct.pooler:
            raise StartError(
                f"{variable} leads to a pooler ({described_url(url)}); it has to lead to PostgreSQL itself"
            )
        if direct.database != reached.database:
            raise StartError(
                f"{variable} leads to another database ({described_url(url)}) than the URL it goes with "
                f"({described_url(str(database.url))})"
            )
        return Database(url, name, null_pool=True)

    async def _migrate(self, name: str, database: Database) -> None:
        url = database.url.render_as_string(hide_password=False)
        mode = self._settings.migrate or ("auto" if database.dialect == "sqlite" else "check")
        with database_faults(name, url):
            state = await (upgrade_database if mode == "auto" else schema_state)(name, url)
        if state is SchemaState.BEHIND and mode == "check":
            raise StartError(
                f"the schema of {name} is not up to date; run: make migrate (or set COXSWAIN_MIGRATE=auto)"
            )
        if state is SchemaState.AHEAD:
            logger.warning("schema_ahead", name=name)

    async def add(self, name: str, build: Build[ServiceT], settings: object) -> ServiceT:
        """Build a service; call in the order of dependence."""
        runtime = await self.runtime(name)
        if not self._hosted:
            seal_page_tokens(runtime.identity.derive("page tokens"))
        service = build(settings, runtime)
        self._hosted.append(Hosted(name, service, runtime))
        return service

    async def open(
        self, *, public_address: str, internal_address: str, identity: IdentityProvider | None = None
    ) -> tuple[int, int]:
        """Start the services and serve them; return the ports of both listeners (0 for a UNIX socket).

        `identity` is auth's own when auth runs in this process; else auth is asked over its interface.

        Raises:
            StartError: an address is taken.
        """
        settings = self._settings
        if identity is None:
            self._verifier_channel = self.peers(self._hosted[0].name)
            remote = RemoteIdentity(self._verifier_channel.channel("auth"))
            identity, verifier = remote, remote.verifier
        else:
            verifier = PrincipalVerifier(identity)
        authenticator = Authenticator(
            identity, verifier, ServiceTokenVerifier(settings.keys_directory), settings.principal_cache_seconds
        )
        source = identity
        self._background.start(
            every(_ACCESS_CHANGES_SECONDS, lambda: authenticator.follow(source), name="access_changes")
        )
        traffic = GroupTraffic()
        public, internal = self._listeners = [
            Listener(settings, authenticator, internal=inside, traffic=traffic, shares_port=self._shares_ports)
            for inside in (False, True)
        ]
        registry = Listeners(self._listeners)
        for hosted in self._hosted:
            hosted.service.register(registry)
        # The internal one first: services may call each other while they start.
        internal_port = await self._listen(internal, internal_address)
        await internal.set_serving(True)
        for hosted in self._hosted:
            await hosted.service.start()
        self._background.start(every(SHARE_SECONDS, lambda: traffic.share(identity), name="group_traffic"))
        identity.on_changed_limits(authenticator.forget_group)
        public_port = await self._listen(public, public_address)
        await public.set_serving(True)
        return public_port, internal_port

    async def _listen(self, listener: Listener, address: str) -> int:
        credentials = server_credentials(self._settings, internal=listener.internal)
        try:
            return await listener.start(address, None if address.startswith("unix:") else credentials)
        except RuntimeError as error:
            variable = "COXSWAIN_<SERVICE>_INTERNAL_PORT" if listener.internal else "COXSWAIN_PORT"
            raise cannot_serve(address, variable) from error

    async def close(self, grace: float) -> None:
        """Drain for at most `grace` seconds, then release everything."""
        # Public calls may need internal ones until their end.
        for listener in self._listeners[:1]:
            await self._quietly("stop_serving", "health", listener.set_serving(False))
        for hosted in reversed(self._hosted):
            await self._quietly("drain", hosted.name, hosted.service.drain())
        for listener in self._listeners:
            await listener.stop(grace)
        # Cancelled handlers run once more before what they use is closed.
        is_waiting = True
        while is_waiting:
            await asyncio.sleep(0)
            is_waiting = finish_cancelling()
        await self._background.stop()
        for hosted in reversed(self._hosted):
            await self._quietly("close", hosted.name, hosted.service.close())
            await hosted.runtime.peers.close()
            await hosted.runtime.database.close()
            if hosted.runtime.direct_database is not None:
                await hosted.runtime.direct_database.close()
        if self._verifier_channel is not None:
            await self._verifier_channel.close()

    async def _quietly(self, step: str, name: str, work: Any) -> None:
        try:
            await work
        except Exception:
            logger.exception("shutdown_step_failed", step=step, name=name)
