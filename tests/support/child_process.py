"""Programs under test as processes: what they print is read as it comes, and they never outlive their test."""

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import psutil

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 180.0
"""How long a program may take to do what a test waits for; reached only when it never will."""

_LASTING_PORTS = range(20_000, 32_000)
"""Below those that Linux by default gives to outgoing connections, and to who asks for any port: they would take a port
before its program listens at it, or while that is started again."""

_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# Lets coverage measurement see the processes.
_KEPT_PREFIXES = ("COVERAGE_", "COV_CORE_")
_TAIL_LINES = 60


def _share_of_ports() -> range:
    """Return the ports of this process of tests: another one would take a port before its program listens at it."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    # One that replaces a process that broke down has a number beyond the others.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % processes
    size = len(_LASTING_PORTS) // processes
    return _LASTING_PORTS[number * size : (number + 1) * size]


_ports = random.Random().sample(_share_of_ports(), len(_share_of_ports()))
_untaken_ports = set(_ports)


def scrubbed_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment that holds nothing of the person who runs the tests, with `more` added."""
    kept = {name: os.environ[name] for name in os.environ if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept | {"HOME": str(home), "PYTHONUNBUFFERED": "1"} | more


def free_port(in_a_row: int = 1) -> int:
    """Return the first of some loopback ports nobody listens on, others each time; they stay free until one listens."""
    for first in _ports:
        row = range(first, first + in_a_row)
        if _untaken_ports.issuperset(row) and all(map(_is_free, row)):
            _untaken_ports.difference_update(row)
            return first
    raise AssertionError("every port was given away")


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


class ChildProcess:
    """One program, in a session of its own so that it can be signalled as a group."""

    started: ClassVar["deque[ChildProcess]"] = deque(maxlen=20)
    """Those started last, for reports of failures."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        root: Path = ROOT,
        program: str = sys.executable,
    ) -> None:
        """Start `python <arguments>`, or another program, at the root of the checkout or of another tree."""
        self.name = name
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            [program, *arguments],
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()
        self.started.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """All it has printed so far, on both streams."""
        with self._changed:
            return "\n".join(self.lines)

    @property
    def tail(self) -> str:
        """The end of its output."""
        with self._changed:
            return "\n".join(self.lines[-_TAIL_LINES:])

    def wait_for_line(self, text: str, timeout: float = WAIT_SECONDS) -> str:
        """Return the first line that contains `text`, as soon as it is printed.

        Raises:
            AssertionError: it ended without that, or took longer than `timeout` seconds.
        """

        def found() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or found() is not None, timeout)
            line = found()
            ended = self._ended
        if line is None:
            what = "ended" if ended else f"took more than {timeout} s"
            raise AssertionError(f"{self.name} {what} without printing {text!r}:\n{self.tail}")
        return line

    def wait(self, timeout: float = WAIT_SECONDS) -> int:
        """Return its exit code (negative: the signal that ended it) once it has ended and all is read.

        Raises:
            AssertionError: it has not ended after `timeout` seconds.
        """
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s:\n{self.tail}") from None
        # What it started may hold its output open for a moment longer.
        self._reader.join(10)
        return code

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole process group."""
        if group:
            os.killpg(self.pid, number)
        else:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        below = descendants(self.pid)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._reader.join(10)

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def descendants(pid: int) -> list[psutil.Process]:
    """Return every living process below one, those that are only waiting to be reaped left out."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs (or is stopped): neither gone nor a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def freeze(process: psutil.Process, sqlite_file: Path | None = None) -> None:
    """Stop a process without ending it; not while it writes to the file, which would stay locked until it wakes."""
    process.send_signal(signal.SIGSTOP)
    while sqlite_file is not None and not _writable(sqlite_file):
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)


def _writable(sqlite_file: Path) -> bool:
    connection = sqlite3.connect(sqlite_file, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    else:
        return True
    finally:
        connection.close()


def run_python(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float = WAIT_SECONDS
) -> tuple[int, str]:
    """Run `python <arguments>` to its end; return its exit code and all it printed."""
    with tempfile.TemporaryDirectory(prefix="coxswain-home-") as home:
        given = scrubbed_environment(Path(home)) if environment is None else environment
        with ChildProcess(" ".join(arguments[:3]), arguments, given) as process:
            return process.wait(timeout), process.output
