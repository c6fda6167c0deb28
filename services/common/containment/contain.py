"""What keeps a process to what it needs, put together."""

import ctypes
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.common import kernel
from services.common.containment.call_filter import restrict_calls
from services.common.containment.file_rules import restrict_files
from services.common.containment.system_calls import allowed_calls

_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 4, 38
_CAPABILITIES_OF_64_BITS = 0x20080522


class Measure(StrEnum):
    """Something the kernel does to contain a process."""

    NO_NEW_PRIVILEGES = "no_new_privileges"
    """No program that it starts gets more rights than it has itself."""
    PRIVATE_MEMORY = "private_memory"
    """Other processes of its user cannot read its memory, its environment or its open files, nor trace it."""
    NO_CAPABILITIES = "no_capabilities"
    """It has no privilege of root, even where its user is root."""
    FILE_RULES = "file_rules"
    """It opens files of the profile alone (Landlock)."""
    CALL_FILTER = "call_filter"
    """It makes the calls of `system_calls` alone (seccomp)."""


class NotContained(OSError):
    """A measure that has to hold cannot be had."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a process may still open, by paths; a directory stands for all below it."""

    readable: Sequence[str]
    writable: Sequence[str] = ()
    ports: Collection[int] | None = None
    """The ports of TCP that it may connect to, where Landlock knows of them. None: it opens no socket of networks."""


def contain(
    profile: Profile, wanted: Collection[Measure] = frozenset(Measure), *, required: Collection[Measure] = ()
) -> frozenset[Measure]:
    """Contain this process by the measures that are `wanted`, for good, as far as the kernel can; return what holds.

    What is open stays open. It must have one thread.

    Raises:
        NotContained: one of `required` cannot be had.
    """
    measures: Mapping[Measure, Callable[[], object]] = {
        Measure.NO_NEW_PRIVILEGES: lambda: kernel.process_control(_SET_NO_NEW_PRIVILEGES, 1),
        Measure.PRIVATE_MEMORY: keep_memory_private,
        Measure.NO_CAPABILITIES: _give_up_capabilities,
        Measure.FILE_RULES: lambda: restrict_files(profile.readable, profile.writable, profile.ports),
        # The last one, as it refuses the calls of those before it.
        Measure.CALL_FILTER: lambda: restrict_calls(allowed_calls(kernel.MACHINE, connects=profile.ports is not None)),
    }
    holding = set()
    for measure, take in measures.items():
        if measure not in wanted:
            continue
        try:
            take()
        except OSError as error:
            if measure in required:
                raise NotContained(error.errno, f"{measure}: {error}") from error
        else:
            holding.add(measure)
    return frozenset(holding)


def keep_memory_private() -> None:
    """Keep other processes of this user out of the memory, the environment and the open files of this one.

    Nor does it leave a core dump. Programs that it starts begin without that.

    Raises:
        OSError: the kernel does not do that.
    """
    kernel.process_control(_SET_DUMPABLE, 0)


def open_memory_again() -> None:
    """Take `keep_memory_private` back, for a process that has just been forked.

    Raises:
        OSError: the kernel does not do that.
    """
    kernel.process_control(_SET_DUMPABLE, 1)


def _give_up_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_OF_64_BITS, 0)
    none = (ctypes.c_uint32 * 6)()
    kernel.system_call("capset", header, none)
