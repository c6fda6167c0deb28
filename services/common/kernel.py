"""Calls of the kernel that Python has no functions for."""

import ctypes
import os
import platform
import sys
from typing import Any

MACHINE = platform.machine() if sys.platform == "linux" else ""
"""What the kernel calls this kind of machine; empty outside Linux."""

_SYSCALL_NUMBERS = {
    "x86_64": {"seccomp": 317, "capset": 126, "madvise": 28},
    "aarch64": {"seccomp": 277, "capset": 91, "madvise": 233},
}
# These have one number everywhere.
_LANDLOCK = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446}

# Loaded before any fork. `syscall` of the library passes on whatever it is given.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
if _libc is not None:
    _libc.syscall.restype = ctypes.c_long


def system_call(name: str, *arguments: Any) -> int:
    """Make a system call and return what it returns; `arguments` are whole numbers, pointers or None.

    Raises:
        OSError: the kernel refuses it, does not know it, or is not Linux on a machine we know.
    """
    number = _LANDLOCK.get(name) or _SYSCALL_NUMBERS.get(MACHINE, {}).get(name)
    if _libc is None or number is None:
        raise NotImplementedByKernel(name)
    result: int = _libc.syscall(ctypes.c_long(number), *(_wide(argument) for argument in arguments))
    return _checked(result, name)


def process_control(option: int, value: int) -> int:
    """Call prctl(2).

    Raises:
        OSError: the kernel refuses it, or is not Linux.
    """
    if _libc is None:
        raise NotImplementedByKernel("prctl")
    # All five, and as wide as the kernel reads them.
    result: int = _libc.prctl(option, *(ctypes.c_ulong(each) for each in (value, 0, 0, 0)))
    return _checked(result, "prctl")


class NotImplementedByKernel(OSError):
    """There is no such call here."""


def _wide(argument: Any) -> Any:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _checked(result: int, name: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
