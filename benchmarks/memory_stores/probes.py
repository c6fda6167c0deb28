"""Ways to search, and what is measured of them in short rounds, in which they take turns."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import psutil

from benchmarks.memory_stores.data import NAMESPACES, K, Matrix, exact, near

CALLERS = 8

Search: TypeAlias = Callable[[int, Matrix], Awaitable[list[str]]]
"""Given a namespace and a query vector, the ids of the nearest."""


@dataclass
class Probe:
    """One way to search, at one caller and at several."""

    name: str
    search: Search
    process: psutil.Process | None = None
    """The server, whose children count with it; this process, for what is searched in it."""
    recalls: bool = True
    """Whether it looks for anything at all."""
    saved_rows_per_second: float | None = None
    milliseconds: list[float] = field(default_factory=list)
    """Of calls at one caller."""
    calls_per_second: list[float] = field(default_factory=list)
    """At several."""
    cpu_milliseconds: list[float] = field(default_factory=list)
    """Of the process, for each call at one caller."""
    hits: int = 0
    wanted: int = 0

    @property
    def recall(self) -> float | None:
        """Return which part of the nearest was found."""
        return self.hits / self.wanted if self.recalls and self.wanted else None

    def percentile(self, part: float) -> float:
        """Return the milliseconds that a part of the calls at one caller took at most."""
        return sorted(self.milliseconds)[int(part * (len(self.milliseconds) - 1))]

    @property
    def cpu(self) -> float | None:
        """Return the median of the CPU milliseconds of a call."""
        return statistics.median(self.cpu_milliseconds) if self.cpu_milliseconds else None


async def run_round(probe: Probe, matrices: Sequence[Matrix], seed: int, queries: int) -> None:
    """Ask a probe some questions one by one, and as many at several callers."""
    random = np.random.default_rng(seed)
    numbers = random.integers(NAMESPACES, size=2 * queries).tolist()
    asked = [(number, near(random, matrices[number])) for number in numbers]
    before = cpu_seconds(probe.process)
    for question in asked[:queries]:
        started = time.perf_counter()
        ids = await probe.search(*question)
        probe.milliseconds.append((time.perf_counter() - started) * 1e3)
        _count(probe, matrices, question, ids)
    if probe.process is not None:
        probe.cpu_milliseconds.append((cpu_seconds(probe.process) - before) / queries * 1e3)
    waiting = asked[queries:]
    found: list[tuple[tuple[int, Matrix], list[str]]] = []

    async def caller() -> None:
        while waiting:
            question = waiting.pop()
            found.append((question, await probe.search(*question)))

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    probe.calls_per_second.append(queries / (time.perf_counter() - started))
    for question, ids in found:
        _count(probe, matrices, question, ids)


def _count(probe: Probe, matrices: Sequence[Matrix], question: tuple[int, Matrix], ids: list[str]) -> None:
    number, query = question
    probe.hits += len(set(ids) & set(exact(matrices[number], query)))
    probe.wanted += K


def cpu_seconds(process: psutil.Process | None) -> float:
    """Return the CPU time of a process and its children so far."""
    if process is None:
        return 0.0
    times = [each.cpu_times() for each in _family(process)]
    return float(sum(spent.user + spent.system for spent in times))


def resident_bytes(process: psutil.Process) -> int:
    """Return the memory of a process and its children."""
    family = _family(process)
    # What processes share counts once.
    return int(sum(each.memory_full_info().pss for each in family) if len(family) > 1 else process.memory_info().rss)


def _family(process: psutil.Process) -> list[psutil.Process]:
    # Of this process the children are servers, which count for themselves.
    return [process] if process.pid == psutil.Process().pid else [process, *process.children(recursive=True)]
