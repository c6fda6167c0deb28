"""Each service, a tool gateway and two worker hosts as processes of their own on PostgreSQL, as a cluster has them."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from sqlalchemy import Table, text

from tests.support.certificates import issue_certificates
from tests.support.child_process import ChildProcess, free_port, scrubbed_environment
from tests.support.installation import SERVICES, Installation

_WORKER = "services.orchestrator.worker"
_TOOLS = "services.orchestrator.tool_gateway"


class ServiceProcesses(Installation):
    """`python -m services.<name>` four times, the tool gateway, and `python -m services.orchestrator.worker` twice."""

    name = "processes"

    def __init__(
        self,
        data_dir: Path,
        database_url: str,
        environment: Mapping[str, str] | None = None,
        *,
        workers: int = 2,
        certificates: Path | None = None,
    ) -> None:
        """`environment` is added to a scrubbed one. Nothing is started yet.

        With a directory for `certificates`, callers use TLS and the processes mutual TLS between each other.
        """
        self._workers = workers
        self.data_dir = data_dir
        self.database_url = database_url
        self.authority = certificates / "ca.pem" if certificates is not None else None
        self._ports = {service: free_port() for service in (*SERVICES, "tools")}
        internal = {service: free_port() for service in self._ports}
        addresses = {f"COXSWAIN_{name.upper()}_ADDRESS": f"127.0.0.1:{port}" for name, port in internal.items()}
        ports = {f"COXSWAIN_{name.upper()}_PORT": str(port) for name, port in self._ports.items()}
        internal_ports = {f"COXSWAIN_{name.upper()}_INTERNAL_PORT": str(port) for name, port in internal.items()}
        self._environment = scrubbed_environment(
            data_dir.parent,
            COXSWAIN_DATA_DIR=str(data_dir),
            COXSWAIN_DATABASE_URL=database_url,
            COXSWAIN_MIGRATE="auto",
            **addresses,
            **ports,
            **internal_ports,
            **(issue_certificates(certificates) if certificates is not None else {}),
            **(environment or {}),
        )
        self.services: dict[str, ChildProcess] = {}
        self.tools: ChildProcess | None = None
        self.workers: list[ChildProcess] = []
        self.replicas: list[ChildProcess] = []

    def replicate(self, service: str) -> ChildProcess:
        """Start another process of a service, at ports that nobody is told, and wait until it serves."""
        upper = service.upper()
        ports = {f"COXSWAIN_{upper}_PORT": str(free_port()), f"COXSWAIN_{upper}_INTERNAL_PORT": str(free_port())}
        process = ChildProcess(service, ["-m", f"services.{service}"], self._environment | ports)
        self.replicas.append(process)
        process.wait_for_line("serving on")
        return process

    @contextlib.contextmanager
    def running(self) -> Iterator["ServiceProcesses"]:
        """Start all, wait until all serve, and end them."""
        try:
            self.services = {name: self._start(name, f"services.{name}") for name in SERVICES}
            for process in self.services.values():
                process.wait_for_line("serving on")
            self.tools = self._start("tools", _TOOLS)
            self.workers = [self._start("worker", _WORKER) for _ in range(self._workers)]
            self.tools.wait_for_line("serving on")
            for worker in self.workers:
                worker.wait_for_line("worker_ready")
            yield self
        finally:
            for process in self._all():
                process.kill()

    @contextlib.contextmanager
    def locked(self, service: str, table: Table) -> Iterator[None]:
        """Let nobody write to a table of a service until the block ends."""
        engine = self._engine(service)
        try:
            with engine.begin() as connection:
                connection.execute(text(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE"))
                yield
        finally:
            engine.dispose()

    def _start(self, name: str, module: str) -> ChildProcess:
        return ChildProcess(name, ["-m", module], self._environment)

    def _all(self) -> list[ChildProcess]:
        return [
            *self.workers,
            *self.replicas,
            *([self.tools] if self.tools is not None else []),
            *self.services.values(),
        ]

    @property
    def logs(self) -> str:
        return "\n".join(process.output for process in self._all())

    def address(self, service: str) -> str:
        return f"127.0.0.1:{self._ports[service]}"

    def processes(self) -> Mapping[str, psutil.Process]:
        return {name: psutil.Process(process.pid) for name, process in self.services.items()}

    def worker_hosts(self) -> list[psutil.Process]:
        return [psutil.Process(worker.pid) for worker in self.workers if worker.running]

    def restore_workers(self) -> None:
        for place, worker in enumerate(self.workers):
            if not worker.running:
                self.workers[place] = self._start("worker", _WORKER)
        for worker in self.workers:
            worker.wait_for_line("worker_ready")
