"""What this installation keeps in its data directory is for its own user alone, whatever modes the files came with.

New files are made so by the umask of every process. Files that a copy or an earlier umask left open are closed at the
start. The directory itself stays as it is: it may hold other things.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.common.startup import StartError

_FILES = ("*.db", "*.db-wal", "*.db-shm", "*.db-journal", "audit.log*", "suite.lock")
# PostgreSQL looks after its own.
_DIRECTORIES = ("keys", "run", "crewai", "litellm", "chroma", "*.locks")
_OTHERS_OF_ANY_KIND = stat.S_IRWXG | stat.S_IRWXO


def close_to_others(data_dir: Path) -> None:
    """Take all rights of other users from what lies in a data directory.

    Raises:
        StartError: others have rights to a file, and this process cannot change that: it belongs to another user, or
            lies on a volume that is read-only.
    """
    for path in _own(data_dir):
        # Processes beside this one remove files of theirs meanwhile.
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not mode & _OTHERS_OF_ANY_KIND:
                continue
            try:
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS_OF_ANY_KIND)
            except FileNotFoundError:
                raise
            except OSError as error:
                # A volume may be shared with a group of its own.
                if mode & stat.S_IRWXO:
                    raise StartError(
                        f"{path} may be used by other users, which cannot be changed from here ({error.strerror}); "
                        f"where it can, as the user whom it belongs to, run: chmod -R go= {path}"
                    ) from None


def _own(data_dir: Path) -> Iterator[Path]:
    for pattern in _FILES:
        yield from data_dir.glob(pattern)
    for pattern in _DIRECTORIES:
        for directory in data_dir.glob(pattern):
            if not directory.is_symlink() and directory.is_dir():
                yield directory
                yield from _below(directory)


def _below(directory: Path) -> Iterable[Path]:
    for parent, directories, files in os.walk(directory):
        yield from (Path(parent, name) for name in (*directories, *files))
