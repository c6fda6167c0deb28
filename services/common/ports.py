"""Ports that other processes may have taken."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from services.common.startup import StartError


def cannot_serve(address: str, variable: str) -> StartError:
    """Return the failure of a process that cannot listen at an address; `variable` chooses another port."""
    return StartError(
        f"{address} cannot be served on: another process may be using it; "
        f"stop that one or choose another port with {variable}"
    )


def refuse_taken_port(host: str, port: int, variable: str) -> None:
    """Find out before anything is made or opened whether a port is free; 0 always is.

    What else keeps a process from serving at this address is found when it does.

    Raises:
        StartError: another process serves on it; `variable` is where another port can be chosen.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise cannot_serve(f"{host}:{port}", variable) from error


@contextlib.contextmanager
def reserved_port(host: str, port: int, variable: str) -> Iterator[int]:
    """Yield a port of a host that processes of one group may listen at; 0 picks a free one.

    Raises:
        StartError: another process listens there; `variable` is where another port can be chosen.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            with socket.socket(family, kind, protocol) as alone:
                # With SO_REUSEPORT, a process of somebody else's would share the port silently.
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
                alone.listen()
                found: int = alone.getsockname()[1]
            holder.bind((address[0], found, *address[2:]))
        except OSError as error:
            raise cannot_serve(f"{host}:{port}", variable) from error
        yield found
