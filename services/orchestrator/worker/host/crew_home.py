"""The directory CrewAI keeps its files in, one for each worker host."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from services.common.remove_tree import remove_tree


class CrewHome:
    """A directory of one worker host's own, for as long as the host lives.

    CrewAI makes a key file when it is imported, not all at once: a host that reads what another is just writing could
    not start, and none ever again after one was killed in between. Nothing in it is worth keeping.
    """

    def __init__(self, parent: Path) -> None:
        """Make the directory below `parent`."""
        self._parent = parent
        parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self.path = Path(tempfile.mkdtemp(dir=parent))
            self._lock = _locked(self.path, wait=True)

    def remove_left(self) -> None:
        """Remove the directories that hosts which were killed have left beside this one. Blocks."""
        for left in list(filter(Path.is_dir, self._parent.iterdir())):
            # One that cannot be opened stays; another host may have removed it just now.
            with contextlib.suppress(OSError):
                with self._alone():
                    lock = _locked(left, wait=False)
                if lock is not None:
                    remove_tree(left)
                    os.close(lock)

    def remove(self) -> None:
        """Remove the directory. Blocks."""
        remove_tree(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other hosts from making directories, which are not locked at once, and from looking for left ones."""
        # A lock ends with the process that holds it, even if that is killed.
        making = _locked(self._parent, wait=True)
        try:
            yield
        finally:
            if making is not None:
                os.close(making)


def _locked(directory: Path, *, wait: bool) -> int | None:
    """Return a descriptor of the directory that holds its lock; None when another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
