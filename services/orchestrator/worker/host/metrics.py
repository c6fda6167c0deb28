"""What a worker host counts of itself."""

import contextlib
import os
import re
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from services.common.counts import from_the_start

SLOTS = Gauge("coxswain_worker_slots", "Slots for executions of this host, by state.", ("state",))
CALLS = Gauge("coxswain_worker_calls", "Calls of crew processes that this host works on now, by kind.", ("call",))
TAKEOVERS = Counter("coxswain_worker_takeovers_total", "Executions whose dead hosts this one has noticed.")
LEASE_LOSSES = Counter(
    "coxswain_worker_lease_losses_total", "Times this host has lost its lease and ended its crew processes."
)
CREW_LOSSES = from_the_start(
    Counter(
        "coxswain_worker_crew_process_losses_total",
        "Crew processes that died in the middle of a task, by cause.",
        ("cause",),
    ),
    ("memory", "exit", "unknown", "SIGKILL", "SIGSEGV"),
)
CREW_CPU = Counter(
    "coxswain_worker_crew_cpu_seconds_total", "Seconds of CPU of this host's crew processes, counted when they end."
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
