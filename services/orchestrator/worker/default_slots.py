"""How many executions a host runs at once where nobody has said: as many as fit its container."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNBOUNDED_SLOTS = 4
"""Without a container, whose memory is the host's alone."""
_HOST_MIB = 400
"""What the host and its fork server need, with the modules that crew processes share."""
_PER_PROCESSOR = 16
"""Crews mostly wait for models: four that run without a pause between answers take about a fifth of a core."""
_MOST_SLOTS = 256
# Version 1 of cgroups says "no limit" by a number that no machine has.
_NO_LIMIT = 1 << 60


def default_slots(
    crew_memory_mib: int, reserved_slots: int, cgroups: Path = _CGROUPS, *, hosts: int = 1, others_mib: int = 0
) -> int:
    """Return how many slots of a host fit a container, each with all the memory of a crew process; at least one.

    Args:
        crew_memory_mib: what a crew process may use, in MiB.
        reserved_slots: slots that the host has beyond these, which need memory as well.
        cgroups: where the kernel tells the container's limits.
        hosts: worker hosts that share the container, this one included.
        others_mib: what other processes in the container need, in MiB.
    """
    memory = _memory_bytes(cgroups)
    if memory is None:
        return _UNBOUNDED_SLOTS
    share_mib = (memory // (1 << 20) - others_mib) // hosts
    by_memory = (share_mib - _HOST_MIB) // crew_memory_mib - reserved_slots
    by_processors = int(_processors(cgroups) * _PER_PROCESSOR / hosts)
    return max(1, min(by_memory, by_processors, _MOST_SLOTS))


def _memory_bytes(cgroups: Path) -> int | None:
    """Return how much memory the container has; None where it has no limit."""
    for file in (cgroups / "memory.max", cgroups / "memory" / "memory.limit_in_bytes"):
        for limit in _numbers(file):
            return limit if limit < _NO_LIMIT else None
    return None


def _processors(cgroups: Path) -> float:
    """Return how many processors the container may use on average."""
    both = _numbers(cgroups / "cpu.max")
    if len(both) != 2:
        both = [*_numbers(cgroups / "cpu" / "cpu.cfs_quota_us"), *_numbers(cgroups / "cpu" / "cpu.cfs_period_us")]
    if len(both) == 2 and both[0] > 0 and both[1] > 0:
        return both[0] / both[1]
    return float(len(os.sched_getaffinity(0)))


def _numbers(file: Path) -> list[int]:
    """Return the numbers of a file that holds nothing else; none where it says "max" or is not there."""
    try:
        return [int(word) for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
