"""The suite's own PostgreSQL server on machines that are slow, and in directories that are broken."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pgserver import postgres_server

from services.common.startup import StartError
from services.suite.postgres import start_server
from tests.support.child_process import run_python, scrubbed_environment


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not below pytest's directory, which root's PostgreSQL (another user) may be kept from.
    with tempfile.TemporaryDirectory(prefix="coxswain-suite-") as path:
        yield Path(path) / "postgres"


def hurry(monkeypatch: pytest.MonkeyPatch, times: float, seconds: float = 0.001) -> list[float]:
    """Give the first `times` starts hardly any time; return the limits of all starts, in seconds."""
    limits: list[float] = []
    original: Callable[..., str] = getattr(postgres_server, "pg_ctl")  # noqa: B009 - it exports no names

    def pg_ctl(arguments: list[str], timeout: float = 60, **options: Any) -> str:
        if "start" in arguments:
            limits.append(timeout if len(limits) >= times else seconds)
            timeout = limits[-1]
        return original(arguments, timeout=timeout, **options)

    monkeypatch.setattr(postgres_server, "pg_ctl", pg_ctl)
    return limits


def running(directory: Path) -> list[psutil.Process]:
    """The servers whose data lies there."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and str(directory.resolve()) in (process.info["cmdline"] or [])
    ]


def test_a_server_that_starts_slowly_is_waited_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = hurry(monkeypatch, 1)
    server = start_server(directory)
    try:
        assert limits[0] < 1, "the first start was too slow"
        assert server.psql("select 6 * 7").split()[2] == "42"
    finally:
        server.cleanup()
    assert not running(directory)


# From before there is a process to the time a server needs: it is ended whatever it is at that moment.
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064])
def test_a_server_that_never_comes_up_is_reported_and_not_left_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    hurry(monkeypatch, float("inf"), seconds)
    with pytest.raises(StartError, match=r"is not ready after 0 s; .*COXSWAIN_DATABASE_URL"):
        start_server(directory, timeout_seconds=0)
    psutil.wait_procs(running(directory), timeout=60)
    assert not running(directory)


def test_a_server_that_cannot_start_is_a_message_and_no_traceback(directory: Path) -> None:
    server = start_server(directory)
    server.cleanup()
    with (directory / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = 'plenty'\n")
    environment = scrubbed_environment(
        directory.parent, COXSWAIN_PORT="0", COXSWAIN_WORKERS="0", COXSWAIN_DATA_DIR=str(directory.parent)
    )
    code, output = run_python(["-m", "services.suite", "--db", "postgres"], environment=environment)
    assert code == 2
    assert "suite cannot start: PostgreSQL does not start" in output
    assert str(directory / "log") in output
    assert "Traceback" not in output


def test_without_the_package_the_mend_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pgserver.postgres_server", None)
    with pytest.raises(StartError, match="COXSWAIN_DATABASE_URL"):
        start_server(directory)
