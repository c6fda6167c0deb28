"""Removing what a process has left, however it has made its directories."""

import contextlib
import os
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(directory: Path) -> None:
    """Remove a directory and what is below it, as far as its user may; no OSError is raised. Blocks.

    Unlike `shutil.rmtree` it needs the same stack and two descriptors for any depth, and enters directories whose mode
    keeps everybody out. Links are removed and not followed.
    """
    with contextlib.suppress(OSError):
        here = os.open(directory.parent, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            # The way to where we are, and what is still to be removed at each level of it.
            entered, ahead = list[str](), [[directory.name]]
            while ahead:
                if ahead[-1]:
                    name = ahead[-1].pop()
                    inner = _enter(name, here)
                    if inner is not None:
                        os.close(here)
                        here = inner
                        entered.append(name)
                        ahead.append(_empty(here))
                else:
                    ahead.pop()
                    if entered:
                        outer = os.open("..", _DIRECTORY, dir_fd=here)
                        os.close(here)
                        here = outer
                        _remove(entered.pop(), here)
        finally:
            os.close(here)


def _enter(name: str, parent: int) -> int | None:
    """Return a descriptor of a directory that may now be changed; None if it cannot be opened."""
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        except PermissionError:
            os.chmod(name, 0o700, dir_fd=parent)
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o700)
        return descriptor
    return None


def _empty(directory: int) -> list[str]:
    """Remove all files of a directory, and return the names of the directories in it."""
    directories = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.name, dir_fd=directory)
    return directories


def _remove(name: str, parent: int) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=parent)
