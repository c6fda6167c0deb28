"""Seccomp: which system calls a process may make."""

import ctypes
import errno
import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise

from services.common import kernel
from services.common.containment.system_calls import MACHINES, AllowedCalls, Argument

_SET_MODE_FILTER = 1
_ALL_THREADS = 1  # SECCOMP_FILTER_FLAG_TSYNC

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# struct seccomp_data: number, architecture, where from, six arguments of 64 bits, the lower half first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _GREATER, _AT_LEAST = 0x15, 0x25, 0x35
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_NOT_KNOWN = 0x00050000 | errno.ENOSYS

Instruction = tuple[int, int, int, int]
"""Code, how many instructions to skip if a comparison holds and if it does not, and the value."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def restrict_calls(allowed: AllowedCalls) -> None:
    """Have every other call of this process refused with EPERM, for good; "no new privileges" has to hold.

    Raises:
        OSError: the kernel does not do that.
    """
    if kernel.MACHINE not in MACHINES:
        raise kernel.NotImplementedByKernel("seccomp")
    code = program(allowed, kernel.MACHINE)
    parameters = _Program(len(code) // 8, code)
    # A thread that cannot be restricted is named by its id.
    if kernel.system_call("seccomp", _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(parameters)):
        raise OSError(errno.EBUSY, "a thread cannot be restricted")


def program(allowed: AllowedCalls, machine: str) -> bytes:
    """Return the filter as the kernel reads it.

    Calls for another architecture, such as 32 bits, have other numbers and are refused altogether; those of x32 have
    numbers that are nowhere allowed.
    """
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in _instructions(allowed, machine))


def _instructions(allowed: AllowedCalls, machine: str) -> Iterator[Instruction]:
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, _ARCHITECTURES[machine]
    yield _RETURN, 0, 0, _REFUSE
    yield _LOAD, 0, 0, _NUMBER
    for number in allowed.unknown:
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _NOT_KNOWN
    for number, conditions in sorted(allowed.conditional.items()):
        block = [each for condition in conditions for each in _condition(condition)]
        yield _EQUAL, 0, len(block) + 1, number
        yield from block
        yield _RETURN, 0, 0, _ALLOW
    # In ascending order: the first range that a number is not above decides.
    for first, last in _ranges(allowed.always):
        yield _GREATER, 3, 0, last
        yield _AT_LEAST, 0, 1, first
        yield _RETURN, 0, 0, _ALLOW
        yield _RETURN, 0, 0, _REFUSE
    yield _RETURN, 0, 0, _REFUSE


def _condition(argument: Argument) -> Iterator[Instruction]:
    """Go on after it if it holds, else refuse."""
    yield _LOAD, 0, 0, _ARGUMENTS + 8 * argument.index + (4 if argument.upper_half else 0)
    yield _AND, 0, 0, argument.mask
    count = len(argument.values)
    for position, value in enumerate(argument.values):
        yield _EQUAL, count - position, 0, value
    yield _RETURN, 0, 0, _REFUSE


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of numbers that follow one another, in ascending order."""
    ordered = sorted(numbers)
    firsts = [number for before, number in pairwise([-2, *ordered]) if number != before + 1]
    lasts = [number for number, after in pairwise([*ordered, -2]) if after != number + 1]
    return zip(firsts, lasts, strict=True)
