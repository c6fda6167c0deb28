"""Keeps crew processes off the network, and from starting others, where the kernel cannot (see `containment`).

An audit hook cannot be removed again and sees what any Python code of the process does, but not compiled code that
opens sockets by itself. It is a guard against CrewAI reaching for a provider, not a sandbox.
"""

import socket
import sys
from typing import Any

_RESOLVING = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})
_STARTING = frozenset({"os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen"})
_REACHING_OUT = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"})


class NetworkRefused(PermissionError):
    """Code in a crew process tried to use the network."""


class ProcessRefused(PermissionError):
    """Code in a crew process tried to start another process."""


def close_off() -> None:
    """Make every attempt to reach another machine raise NetworkRefused, and to start a process ProcessRefused."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _STARTING:
        raise ProcessRefused(f"crew processes start no others ({event})")
    if not event.startswith("socket."):
        return
    if event in _RESOLVING or (event in _REACHING_OUT and arguments[0].family in (socket.AF_INET, socket.AF_INET6)):
        raise NetworkRefused(f"crew processes have no network of their own ({event})")
