"""Put on the path of processes under test: notes imports and connections that a test then judges.

`WITNESS_FILE` names the file, one JSON object a line; `WITNESS_MODULES` the top-level modules whose import is noted,
separated by commas. Connections that Python code attempts to anything but this machine are noted always. Without
`WITNESS_FILE` nothing happens.
"""

import ipaddress
import json
import os
import sys
from typing import Any

_FILE = os.environ.get("WITNESS_FILE", "")
_MODULES = frozenset(filter(None, os.environ.get("WITNESS_MODULES", "").split(",")))


def _note(what: str, detail: str) -> None:
    line = json.dumps({"process": " ".join(sys.orig_argv[1:]), "what": what, "detail": detail})
    # One write of one short line: lines of several processes do not mix.
    descriptor = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _is_outside(host: object) -> bool:
    if host is None or host in {"localhost", b"localhost", "", b""}:
        return False
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    try:
        return not ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "import" and arguments[0] in _MODULES:
        _note("import", arguments[0])
    elif event == "socket.connect" and isinstance(arguments[1], tuple) and _is_outside(arguments[1][0]):
        _note("connect", repr(arguments[1]))
    elif event == "socket.getaddrinfo" and _is_outside(arguments[0]):
        _note("resolve", repr(arguments[0]))


if _FILE:
    sys.addaudithook(_watch)
