"""Locks that worker hosts hold on files, which the kernel drops when their process ends, however it ends."""

import contextlib
import fcntl
from io import FileIO
from pathlib import Path
from typing import Self

from sqlalchemy.engine import URL


class FileLocks:
    """For hosts on SQLite, which are all on one machine; on PostgreSQL the server keeps such locks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def beside(cls, url: URL) -> Self | None:
        """Return the locks of the hosts that have their leases in a file of SQLite; None for another database."""
        if url.get_backend_name() != "sqlite" or not url.database:
            return None
        return cls(Path(url.database).with_suffix(".locks"))

    def take(self, key: int) -> FileIO:
        """Lock a new file, for as long as what is returned is open.

        Raises:
            OSError: files cannot be made or locked there.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        file = FileIO(self._file(key), "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        return file

    def is_held(self, key: int) -> bool:
        """Return whether the process that took a lock still lives; also when that cannot be told."""
        try:
            with FileIO(self._file(key)) as file:
                # Shared: two hosts that look at once must not take each other for the holder.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    def remove(self, key: int) -> None:
        """Remove the file of a lock that nobody holds any more."""
        with contextlib.suppress(OSError):
            self._file(key).unlink()

    def _file(self, key: int) -> Path:
        return self._directory / f"{key:x}"
