"""Runs a program where no other machine can be reached, and counts what tried: `without_network.py COUNTERS PROGRAM`.

In a network namespace of its own there is only loopback; the kernel counts every packet and connection it has no
route for, whoever sent it. Where namespaces are not allowed the program runs as it is, and COUNTERS is not written.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
# Without a route: refused at connect or send. UDP to loopback: a name server that listens there would be asked.
_COUNTED = {"Ip.OutNoRoutes", "Udp.OutDatagrams", "Ip6OutNoRoutes", "Udp6OutDatagrams"}


def enter_namespace() -> bool:
    """Leave the network behind; return whether that was possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    if libc.unshare(flags) != 0:
        return False
    with socket.socket() as probe:
        interface = struct.pack("16sh", b"lo", 0)
        present = struct.unpack("16sh", fcntl.ioctl(probe, _GET_FLAGS, interface))[1]
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sh", b"lo", present | _UP))
    return True


def counters() -> dict[str, int]:
    """Return how much this namespace has tried to send elsewhere."""
    found = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    lines = Path("/proc/net/snmp").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        protocol = names.partition(":")[0]
        for name, value in zip(names.split()[1:], values.split()[1:], strict=True):
            found[f"{protocol}.{name}"] = value
    return {name: int(found[name]) for name in _COUNTED if name in found}


def main() -> int:
    """Run the program; return its exit code."""
    target, *program = sys.argv[1:]
    isolated = enter_namespace()
    code = subprocess.run([sys.executable, *program], check=False).returncode
    if isolated:
        Path(target).write_text(json.dumps(counters()))
    return code


if __name__ == "__main__":
    sys.exit(main())
