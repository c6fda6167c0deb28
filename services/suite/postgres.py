"""A PostgreSQL server of the suite's own, from the pgserver wheel, which no image has."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from services.common.startup import StartError

_PAUSE_SECONDS = 0.5


def start_server(directory: Path, *, timeout_seconds: float = 60) -> Any:
    """Start the server whose data lies in `directory`, or find it running; return pgserver's handle of it.

    pgserver gives a start ten seconds, which a busy machine may need for the recovery after a crash alone: the server
    goes on starting meanwhile, and is asked for again. Blocks.

    Raises:
        StartError: pgserver is not installed, or the server does not come up.
    """
    try:
        from pgserver.postgres_server import PostgresServer, get_server
    except ImportError as error:
        raise StartError(
            "PostgreSQL of the suite's own needs the pgserver package, which development environments have; "
            "set COXSWAIN_DATABASE_URL to a server that runs, or leave out --db postgres"
        ) from error
    directory = directory.resolve()
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return get_server(directory)
        # AssertionError: it runs and is not ready yet.
        except (subprocess.SubprocessError, OSError, AssertionError) as error:
            # pgserver would return this handle again, although its server never started.
            PostgresServer._instances.pop(directory, None)  # noqa: SLF001
            # pgserver reads its log when it reports a timeout, and fails if there is no log yet.
            slow = any(isinstance(e, subprocess.TimeoutExpired | AssertionError) for e in (error, error.__context__))
            if not slow or time.monotonic() >= deadline:
                _stop(directory)
                why = f"is not ready after {timeout_seconds:.0f} s" if slow else f"does not start ({error})"
                raise StartError(
                    f"PostgreSQL {why}; {directory / 'log'} has the reason. Start again when the machine is less busy, "
                    "set COXSWAIN_DATABASE_URL to a server that runs, or use SQLite"
                ) from error
        time.sleep(_PAUSE_SECONDS)


def _stop(directory: Path) -> None:
    """End a server that may still be starting, with or without its pid file: nobody would be left to stop it."""
    import psutil
    from pgserver._commands import POSTGRES_BIN_PATH

    # It tells the server its own path without links.
    programs = (POSTGRES_BIN_PATH, POSTGRES_BIN_PATH.resolve())
    # pg_ctl makes a shell of a copy of itself, and the shell becomes the server: one process, which has no command line
    # while it changes. Only a second look is sure to see it.
    for _ in range(2):
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            line = " ".join(words)
            if any(str(path) in line for path in programs) and (str(directory) in words or f'"{directory}"' in line):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGQUIT)
        time.sleep(_PAUSE_SECONDS)
