"""The kernel's files about this process, read and written with nothing between.

A process that was just forked pays for each object it is the first to touch: `pathlib` and text files cost it more
than a millisecond.
"""

import os

_MOST_BYTES = 64 * 1024


def open_proc(name: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of /proc/self/`name`. Raises OSError outside Linux, or if that is not allowed."""
    return os.open(f"/proc/self/{name}", flags | os.O_CLOEXEC)


def read_proc(name: str) -> bytes:
    """Return what /proc/self/`name` says. Raises OSError outside Linux."""
    descriptor = open_proc(name)
    try:
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def write_proc(name: str, value: str) -> None:
    """Write to /proc/self/`name`. Raises OSError outside Linux, or if that is not allowed."""
    descriptor = open_proc(name, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
