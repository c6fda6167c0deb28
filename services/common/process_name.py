"""What a process is called in the lists of `ps` and `top`."""

import contextlib
from pathlib import Path

_NAME = Path("/proc/self/comm")


def name_process(name: str) -> None:
    """Give this process a name of at most 15 characters, from any of its threads; without effect outside Linux."""
    with contextlib.suppress(OSError):
        _NAME.write_text(name)
