"""Two processes of everything on a PostgreSQL of its own, each of which can be ended and started again."""

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pgserver import postgres_server

from services.common.settings import SERVICES
from tests.support.child_process import ChildProcess, descendants, free_port, scrubbed_environment
from tests.support.llm_emulator import LlmEmulator

REPLICAS = 2
_TOOLS = "tools"
_SETTLED_SECONDS = 10.0
"""How long after its restart calls may still fail by a database that was away: pools have to connect anew."""


@dataclass
class Replica:
    """One process of a service, or a worker host, at its place."""

    name: str
    """Such as "models-2"."""
    module: str
    environment: dict[str, str]
    ready: str
    """Stands in the line that it prints when it works."""
    process: ChildProcess | None = None

    def start(self) -> None:
        """Start it, and return when it works."""
        self.process = ChildProcess(self.name, ["-m", self.module], self.environment)
        self.process.wait_for_line(self.ready)

    @property
    def running(self) -> ChildProcess:
        """Its process. Raises AssertionError: it was never started."""
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        """Kill it with all it has started."""
        self.running.kill()

    def terminate(self) -> int:
        """Ask it to end, as a rollout does, and return its exit code."""
        self.running.signal(signal.SIGTERM)
        return self.running.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep it from running, and let it go on."""
        self.running.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.running.signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """Return it and what it has started."""
        return [psutil.Process(self.running.pid), *descendants(self.running.pid)]


@dataclass
class Replicas:
    """All of them, and their database."""

    directory: Path
    postgres: postgres_server.PostgresServer
    llm: LlmEmulator
    addresses: dict[str, str] = field(default_factory=dict)
    """Both replicas of each service, for clients."""
    places: list[Replica] = field(default_factory=list)
    database_away: list[tuple[float, float]] = field(default_factory=list)
    """When calls may fail by the database: begin and end by `time.monotonic`."""

    def __post_init__(self) -> None:
        names = (*SERVICES, _TOOLS)
        public, internal = ({name: [free_port() for _ in range(REPLICAS)] for name in names} for _ in range(2))
        self.addresses = {name: _target(public[name]) for name in SERVICES}
        common = scrubbed_environment(
            self.directory,
            COXSWAIN_DATA_DIR=str(self.directory / "data"),
            COXSWAIN_DATABASE_URL=self.postgres.get_uri(),
            COXSWAIN_MIGRATE="auto",
            COXSWAIN_LOG_LEVEL="WARNING",
            OPENAI_API_KEY="sk-soak-0123456789",
            OPENAI_BASE_URL=f"{self.llm.url}/v1",
            **{f"COXSWAIN_{name.upper()}_ADDRESS": _target(ports) for name, ports in internal.items()},
        )
        for number in range(REPLICAS):
            for name, ports in internal.items():
                own = {
                    f"COXSWAIN_{name.upper()}_PORT": str(public[name][number]),
                    f"COXSWAIN_{name.upper()}_INTERNAL_PORT": str(ports[number]),
                }
                module = "services.orchestrator.tool_gateway" if name == _TOOLS else f"services.{name}"
                self.places.append(Replica(f"{name}-{number + 1}", module, common | own, "serving on"))
            host = common | {"COXSWAIN_LOG_LEVEL": "INFO"}
            self.places.append(Replica(f"worker-{number + 1}", "services.orchestrator.worker", host, "worker_ready"))

    @contextlib.contextmanager
    def running(self) -> Iterator["Replicas"]:
        """Start all of them, one after the other, and end them."""
        self.postgres.psql("ALTER SYSTEM SET max_connections = 200")
        self.restart_database("fast")
        try:
            # Workers last: they need the others.
            for place in sorted(self.places, key=lambda place: place.name.startswith("worker")):
                place.start()
            yield self
        finally:
            for place in self.places:
                if place.process is not None:
                    place.kill()

    def restart_database(self, mode: str) -> None:
        """Restart PostgreSQL: "fast" ends its connections, "immediate" is as if it had been killed."""
        began = time.monotonic()
        log = self.postgres.pgdata / "log"
        arguments = ["restart", "-w", "-m", mode, "-l", str(log)]
        # The module exports no names.
        pg_ctl = getattr(postgres_server, "pg_ctl")  # noqa: B009
        pg_ctl(arguments, pgdata=self.postgres.pgdata, user=self.postgres.system_user, timeout=120)
        # It is another process now, which the library would leave running at the end.
        self.postgres.ensure_postgres_running()
        self.database_away.append((began, time.monotonic() + _SETTLED_SECONDS))

    def excused(self, began: float, ended: float) -> bool:
        """Whether a call of that time may have failed: both replicas are away only while their database is."""
        return any(began <= end and ended >= begin for begin, end in self.database_away)


def _target(ports: list[int]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
