"""Keeps crew processes off the network: all they need comes through their host.

An audit hook cannot be removed again and sees what any Python code of the process does, but not compiled code that
opens sockets by itself. It is a guard against CrewAI reaching for a provider, not a sandbox.
"""

import socket
import sys
from typing import Any

_RESOLVING = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})
_REACHING_OUT = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"})


class NetworkRefused(PermissionError):
    """Code in a crew process tried to use the network."""


def refuse_network() -> None:
    """Make every attempt to look up a name or to reach another machine raise NetworkRefused, for good."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _RESOLVING or (event in _REACHING_OUT and arguments[0].family in (socket.AF_INET, socket.AF_INET6)):
        raise NetworkRefused(f"crew processes have no network of their own ({event})")
