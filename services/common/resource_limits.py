"""Limits of resources that the kernel holds a process to."""

import contextlib
import os
import resource
from pathlib import Path


def limit_resource(kind: int, most: int) -> None:
    """Let this process and what it starts have at most `most` of a resource, for good; less where less is allowed now.

    `kind` is one of RLIMIT_*, `most` in its unit.

    Raises:
        OSError: the kernel refuses it.
    """
    _, allowed = resource.getrlimit(kind)
    ceiling = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(kind, (ceiling, ceiling))


def limit_processes(more: int) -> None:
    """Let this process and what it starts make no more than about `more` processes and threads, for good.

    The kernel counts all of the user, whose others are not held to it: what they add later leaves less here. So do
    those in other containers of the node, which /proc does not show. It asks nothing of root.
    """
    limit_resource(resource.RLIMIT_NPROC, _running() + more)


def _running() -> int:
    """Return how many threads the processes of this user have, where /proc tells."""
    user, count = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        # Processes end meanwhile.
        with contextlib.suppress(OSError):
            if process.stat().st_uid == user or _user_of(process) == user:
                count += len(os.listdir(process / "task"))  # noqa: PTH208 - their names are enough
    return count


def _user_of(process: Path) -> int:
    """Return the real user: the files of processes with private memory belong to root."""
    _, _, users = (process / "status").read_text().partition("\nUid:")
    return int(users.split(maxsplit=1)[0])
