"""The data directory belongs to one suite at a time."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from services.common.startup import StartError

_SOCKET_PATH_LIMIT = 100


@contextlib.contextmanager
def lock_data_directory(directory: Path, served_at: str) -> Iterator[None]:
    """Hold the directory's lock while the block runs.

    Raises:
        StartError: another suite holds it.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "suite.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StartError(
                f"{directory} is in use by another suite ({file.read().strip() or 'just starting'}); "
                "stop that one, or choose another COXSWAIN_DATA_DIR and COXSWAIN_PORT"
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {served_at}")
        file.flush()
        yield


def private_directory(path: Path) -> Path:
    """Make a directory that only this user can look into."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def internal_socket(directory: Path) -> Path:
    """Return the path of the internal listener's UNIX socket.

    The kernel limits such a path to about a hundred bytes; of a deep directory the socket lies in the temporary one.
    """
    path = directory / "run" / "internal.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"coxswain-{os.getuid()}-{name}" / "internal.sock"


def free_internal_socket(directory: Path) -> Path:
    """Return `internal_socket`, free to bind to, in a directory that only this user can look into."""
    path = internal_socket(directory)
    private_directory(path.parent)
    path.unlink(missing_ok=True)
    return path
