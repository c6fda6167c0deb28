"""The one-port suite as a process of its own, as `make run` starts it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from services.suite.data_directory import internal_socket
from tests.support.certificates import issue_certificates
from tests.support.child_process import (
    ROOT,
    ChildProcess,
    descendants,
    free_port,
    is_alive,
    scrubbed_environment,
)
from tests.support.installation import Installation, wait_gone, wait_until

_WORKER = "services.orchestrator.worker"


class SuiteProcess(Installation):
    """`python -m services.suite` on a port and a data directory that stay the same from start to start."""

    name = "suite"
    database_url = ""

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int = 2,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        certificates: Path | None = None,
        root: Path = ROOT,
    ) -> None:
        """`environment` is added to a scrubbed one. Nothing is started yet.

        With a directory for `certificates`, callers use TLS. `root` is the tree whose code runs.
        """
        self.root = root
        self.data_dir = data_dir
        self.port = free_port()
        self.process: ChildProcess | None = None
        self._workers = workers
        self._arguments = arguments
        self._environment = dict(environment or {})
        self.authority = None
        if certificates is not None:
            self._environment |= issue_certificates(certificates)
            self.authority = certificates / "ca.pem"

    @contextlib.contextmanager
    def running(self) -> Iterator["SuiteProcess"]:
        """Start it, and end it with all it has started."""
        try:
            self.start()
            yield self
        finally:
            if self.process is not None:
                self.process.kill()

    def internal_addresses(self) -> tuple[str, str]:
        """Return the addresses of the internal listeners: of all services, and of the tool gateway."""
        socket = internal_socket(self.data_dir)
        return f"unix:{socket}", f"unix:{socket.with_name('tools.sock')}"

    def environment(self) -> dict[str, str]:
        """Return the whole environment it is started with."""
        return scrubbed_environment(
            self.data_dir.parent,
            COXSWAIN_DATA_DIR=str(self.data_dir),
            COXSWAIN_PORT=str(self.port),
            COXSWAIN_WORKERS=str(self._workers),
            **self._environment,
        )

    def launch(self) -> ChildProcess:
        """Start a process without waiting for anything."""
        return ChildProcess("suite", ["-m", "services.suite", *self._arguments], self.environment(), root=self.root)

    def start(self) -> ChildProcess:
        """Start it and wait until its worker hosts take executions."""
        self.process = self.launch()
        self.process.wait_for_line("serving on")
        if self._workers:
            self.process.wait_for_line("workers warm")
        return self.process

    def kill(self) -> None:
        """SIGKILL the suite's own process; return when all it had started is gone as well."""
        process = self._running()
        below = descendants(process.pid)
        psutil.Process(process.pid).kill()
        process.wait()
        wait_gone(below)

    @property
    def logs(self) -> str:
        return self._running().output

    def address(self, service: str) -> str:
        return f"127.0.0.1:{self.port}"

    def processes(self) -> Mapping[str, psutil.Process]:
        return {"suite": psutil.Process(self._running().pid)}

    def worker_hosts(self) -> list[psutil.Process]:
        children = psutil.Process(self._running().pid).children()
        return [child for child in children if is_alive(child) and _is_worker(child)]

    def restore_workers(self) -> None:
        wait_until(lambda: len(self.worker_hosts()) == self._workers, "the suite has started its workers again")

    def _running(self) -> ChildProcess:
        if self.process is None or not self.process.running:
            raise RuntimeError("the suite is not running")
        return self.process


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return _WORKER in process.cmdline()
    return False
