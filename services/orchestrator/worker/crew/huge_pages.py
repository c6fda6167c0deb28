"""Huge pages: what a fork copies, and an exit takes down, are tables with one entry for each page."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from services.common import kernel

_HUGE = 2 << 20
_COLLAPSE = 25  # MADV_COLLAPSE


def collapse_memory() -> None:
    """Put the memory that this process has written into huge pages, where the kernel does that (Linux 6.1 and newer).

    A forked process still copies pages of the usual size as it writes to them.
    """
    if not kernel.MACHINE:
        return
    for first, last in _anonymous_ranges():
        start, end = -(-first // _HUGE) * _HUGE, last // _HUGE * _HUGE
        if start < end:
            # A range in which one of the pages cannot be had is an error as well; the others have been done by then.
            with contextlib.suppress(OSError):
                kernel.system_call("madvise", start, end - start, _COLLAPSE)


def _anonymous_ranges() -> Iterator[tuple[int, int]]:
    """Yield the addresses of this process's writable memory that no file stands behind."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, _offset, _device, file, *_name = line.split()
        if rights == "rw-p" and file == "0":
            first, last = addresses.split("-")
            yield int(first, 16), int(last, 16)
