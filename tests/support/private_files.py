"""Files of the kernel about a process that it may keep from this user."""

import os
from pathlib import Path


def private_file(pid: int, name: str) -> bytes:
    """Return /proc/`pid`/`name`; empty where the kernel keeps it from the user of the process, but not from root."""
    try:
        return (Path("/proc") / str(pid) / name).read_bytes()
    except PermissionError:
        if os.geteuid() == 0:
            raise
        return b""


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty where `private_file` is."""
    entries = private_file(pid, "environ").decode(errors="surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
