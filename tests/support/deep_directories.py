"""Directories within directories, more of them than Python calls may be nested."""

import os
import sys
from pathlib import Path

LEVELS = 1500
assert sys.getrecursionlimit() < LEVELS


def make_deep(directory: Path) -> None:
    """Make LEVELS of directories below one, and a file in the last; the path of all names is too long for a call."""
    here = os.open(directory, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("deep", dir_fd=here)
        inner = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
