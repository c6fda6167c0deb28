"""The directory CrewAI keeps its files in, one for each worker host."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class CrewHome:
    """A directory of one worker host's own, for as long as the host lives.

    CrewAI makes a key file when it is imported, not all at once: a host that reads what another is just writing could
    not start, and none ever again after one was killed in between. Nothing in it is worth keeping.
    """

    def __init__(self, parent: Path) -> None:
        """Make the directory below `parent`, and remove those that hosts which were killed have left there. Blocks."""
        parent.mkdir(parents=True, exist_ok=True)
        # A lock ends with the process that holds it, even if that is killed.
        making = _locked(parent, wait=True)
        try:
            for left in filter(Path.is_dir, parent.iterdir()):
                lock = _locked(left, wait=False)
                if lock is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(lock)
            self.path = Path(tempfile.mkdtemp(dir=parent))
            self._lock = _locked(self.path, wait=True)
        finally:
            if making is not None:
                os.close(making)

    def remove(self) -> None:
        """Remove the directory. Blocks."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(directory: Path, *, wait: bool) -> int | None:
    """Return a descriptor of the directory that holds its lock; None when another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
