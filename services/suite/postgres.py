"""A PostgreSQL server of the suite's own, from the pgserver wheel, which no image has."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from services.common.hosting import StartError

_PAUSE_SECONDS = 0.5


def start_server(directory: Path, *, patience_seconds: float = 60) -> Any:
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
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return get_server(directory)
        # AssertionError: it runs and is not ready yet.
        except (subprocess.SubprocessError, OSError, AssertionError) as error:
            # pgserver would give out this handle again, which never got its server.
            PostgresServer._instances.pop(directory, None)  # noqa: SLF001
            # On its way to tell of a timeout it fails where there is no log yet.
            slow = any(isinstance(e, subprocess.TimeoutExpired | AssertionError) for e in (error, error.__context__))
            if not slow or time.monotonic() >= deadline:
                _stop(directory)
                why = f"is not ready after {patience_seconds:.0f} s" if slow else f"does not start ({error})"
                raise StartError(
                    f"PostgreSQL {why}; {directory / 'log'} tells why. Start again when the machine has less to do, "
                    "set COXSWAIN_DATABASE_URL to a server that runs, or use SQLite"
                ) from error
        time.sleep(_PAUSE_SECONDS)


def _stop(directory: Path) -> None:
    """End a server that may still be starting: nobody would be left to stop it."""
    import psutil

    with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
        # The file may be of an earlier server, and its number another process's by now.
        process = psutil.Process(int((directory / "postmaster.pid").read_text().split()[0]))
        if process.name() == "postgres" and str(directory) in process.cmdline():
            process.send_signal(signal.SIGQUIT)
