"""What a worker host counts of itself."""

import contextlib
import os
import re
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

SLOTS = Gauge("coxswain_worker_slots", "Executions this host runs at once, those in reserved slots left out.")
BUSY = Gauge("coxswain_worker_executions", "Executions this host runs now.")
CALLS = Gauge("coxswain_worker_calls", "Calls of crew processes that this host works on now, by kind.", ("call",))
TAKEOVERS = Counter("coxswain_worker_takeovers", "Executions whose dead hosts this one has noticed.")
LEASE_LOSSES = Counter(
    "coxswain_worker_lease_losses", "Times this host has lost its lease and ended its crew processes."
)
CREW_LOSSES = Counter(
    "coxswain_worker_crew_process_losses", "Crew processes that died in the middle of a task, by cause.", ("cause",)
)
CREW_MEMORY = Gauge(
    "coxswain_worker_crew_memory_bytes", "Memory of this host's crew processes, what they share counted by shares."
)
SILENCE = Gauge("coxswain_worker_silent_seconds", "Seconds since this host's event loop has last shown that it works.")

_KIB = 1024
_MOST_BYTES = 4096
_SHARE = re.compile(rb"^Pss: +(\d+) kB$", re.MULTILINE)


def proportional_memory(files: Iterable[int]) -> float:
    """Return the bytes of some processes by descriptors of their `smaps_rollup`; those that are gone have none."""
    kibibytes = 0
    for file in files:
        with contextlib.suppress(OSError):
            found = _SHARE.search(os.pread(file, _MOST_BYTES, 0))
            kibibytes += int(found[1]) if found else 0
    return float(kibibytes * _KIB)
