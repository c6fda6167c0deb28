"""Starts the real servers, and makes the environment that those of version 2 need."""

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.child_process import free_port
from tests.support.own_environment import python_of

HERE = Path(__file__).parent
LOCK = HERE / "modern.txt"
LEGACY = HERE / "legacy_server.py"
MODERN = HERE / "modern_server.py"
WAIT_SECONDS = 90.0


def modern_python() -> Path:
    """Return the interpreter that has version 2 of the package; its environment is made when its lock is new."""
    return python_of("mcp-modern", LOCK)


@dataclass
class McpServerProcess:
    """A server as a process, started again on the same port as often as a test likes."""

    command: list[str]
    ledger: Path
    path: str = "/mcp"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def start(self) -> Self:
        self.process = subprocess.Popen(
            [*self.command, "--port", str(self.port), "--ledger", str(self.ledger)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + WAIT_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {self.command}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def wait(self) -> None:
        """Wait until it has ended by itself."""
        assert self.process is not None
        self.process.wait(WAIT_SECONDS)

    def restart(self) -> None:
        self.stop()
        self.start()

    def paid(self, key: str) -> int:
        """How often the server has done the work of a call, by its own count."""
        return self.ledger.read_text().split("\n").count(key) if self.ledger.exists() else 0

    async def has_paid(self, key: str) -> None:
        """Wait until the server has done the work of a call."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self.paid(key):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)


@contextlib.contextmanager
def serving(
    python: Path | str, script: Path, ledger: Path, *options: str, path: str = "/mcp"
) -> Iterator[McpServerProcess]:
    """Run a server for the time of a block."""
    server = McpServerProcess([str(python), str(script), *options], ledger, path)
    try:
        yield server.start()
    finally:
        server.stop()


if __name__ == "__main__":
    modern_python()
