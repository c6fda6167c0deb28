"""What tests need of an installation of the product, however it is deployed."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from sqlalchemy import Connection, Engine, RowMapping, Select, Update, create_engine, make_url, text

from coxswain.client import Client, Tls
from tests.support.child_process import freeze, is_alive

SERVICES = ("auth", "models", "memory", "orchestrator")
POLL_SECONDS = 0.05

_FORK_SERVER = "services.orchestrator.worker.crew.fork_server"
_AT_WORK = "coxswain-crew"


@dataclass(frozen=True)
class Caller:
    """One person at an installation: a client of each service."""

    auth: Client
    models: Client
    memory: Client
    orchestrator: Client

    def close(self) -> None:
        """End the connections."""
        for client in {self.auth, self.models, self.memory, self.orchestrator}:
            client.close()


class Installation(ABC):
    """All services and two worker hosts, running."""

    name: str
    data_dir: Path
    database_url: str
    """Empty: a SQLite file for each service."""
    authority: Path | None = None
    """PEM file of the authority of its certificates; None where it speaks without TLS."""

    @abstractmethod
    def address(self, service: str) -> str:
        """Return the address of a service's public listener."""

    @abstractmethod
    def processes(self) -> Mapping[str, psutil.Process]:
        """Return the living processes that serve the API, by name."""

    @abstractmethod
    def worker_hosts(self) -> list[psutil.Process]:
        """Return the living worker hosts."""

    @abstractmethod
    def restore_workers(self) -> None:
        """Bring worker hosts that were killed back, where nothing else does, and wait until as many live as should."""

    @property
    @abstractmethod
    def logs(self) -> str:
        """Everything its processes have printed so far."""

    @contextlib.contextmanager
    def caller(self, token: str, group: str = "") -> Iterator[Caller]:
        """Connect as a development identity; "" is the default one."""
        names = {self.address(service): service for service in SERVICES}
        clients = {address: self.client(name, token, group) for address, name in names.items()}
        caller = Caller(*(clients[self.address(service)] for service in SERVICES))
        try:
            yield caller
        finally:
            caller.close()

    def client(self, service: str, token: str = "", group: str = "") -> Client:
        """Return a client of one service."""
        return self.client_at(self.address(service), token, group)

    def client_at(self, address: str, token: str = "", group: str = "") -> Client:
        """Return a client of the service at an address, such as that of a replica."""
        tls = Tls(root_certificates=self.authority.read_bytes()) if self.authority is not None else False
        return Client(address, token=token or None, group=group, tls=tls)

    def channel(self, service: str) -> grpc.Channel:
        """Return a bare channel to a service's public listener."""
        if self.authority is None:
            return grpc.insecure_channel(self.address(service))
        credentials = grpc.ssl_channel_credentials(self.authority.read_bytes())
        return grpc.secure_channel(self.address(service), credentials)

    def rows(self, service: str, query: Select[Any]) -> list[RowMapping]:
        """Read rows of a service's database as they are stored."""
        engine = self._engine(service)
        try:
            with engine.connect() as connection:
                return list(connection.execute(query).mappings())
        finally:
            engine.dispose()

    def change(self, service: str, change: Update) -> None:
        """Change rows of a service's database, as time would."""
        engine = self._engine(service)
        try:
            with engine.begin() as connection:
                connection.execute(change)
        finally:
            engine.dispose()

    def freeze(self, host: psutil.Process) -> None:
        """Stop a worker host without ending it, and without keeping others from what they share."""
        freeze(host, None if self.database_url else self.data_dir / "orchestrator.db")

    def everything_stored(self) -> Iterator[str]:
        """Yield every row of every table as text, bytes as hexadecimal digits."""
        services = (file.stem for file in self.data_dir.glob("*.db")) if not self.database_url else iter(("public",))
        for service in services:
            engine = self._engine(service)
            try:
                with engine.connect() as connection:
                    for table in _tables(connection):
                        for row in connection.execute(text(f"SELECT * FROM {table}")):
                            yield " ".join(_as_text(value) for value in row)
            finally:
                engine.dispose()

    def _engine(self, service: str) -> Engine:
        if not self.database_url:
            return create_engine(f"sqlite:///{self.data_dir / service}.db")
        url = make_url(self.database_url).set(drivername="postgresql+psycopg")
        return create_engine(url, connect_args={"options": f"-csearch_path={service}"})


def _tables(connection: Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT '\"' || name || '\"' FROM sqlite_master WHERE type = 'table'"
    else:
        query = (
            "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
        )
    return list(connection.scalars(text(query)))


def _as_text(value: object) -> str:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)


def crew_processes(host: psutil.Process) -> list[psutil.Process]:
    """Return the living crew processes of a worker host."""
    try:
        servers = [child for child in host.children() if is_alive(child) and _FORK_SERVER in child.cmdline()]
        children = [child for server in servers for child in server.children() if is_alive(child)]
        # Others were forked ahead, and have no execution.
        return [child for child in children if child.name() == _AT_WORK]
    except psutil.NoSuchProcess:
        return []


def busy_host(installation: Installation, timeout: float = 60) -> tuple[psutil.Process, psutil.Process]:
    """Return the worker host that runs the only execution there is, and its crew process."""

    def busy() -> list[tuple[psutil.Process, psutil.Process]]:
        return [(host, crew) for host in installation.worker_hosts() for crew in crew_processes(host)]

    wait_until(lambda: len(busy()) == 1, "one crew process runs", timeout)
    return busy()[0]


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Wait for a condition that nothing announces.

    Raises:
        AssertionError: it does not hold within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(POLL_SECONDS)


def wait_gone(processes: Sequence[psutil.Process], timeout: float = 60) -> None:
    """Wait until processes have ended."""
    wait_until(lambda: not any(map(is_alive, processes)), f"{[process.pid for process in processes]} ended", timeout)
