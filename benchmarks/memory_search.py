"""How fast memory searches and saves, beside NumPy, pgvector, ChromaDB and LanceDB, on the same data in the same run.

50 namespaces, k=10, clustered unit vectors: 20,000 x 1024 and 100,000 x 384. The default store answers over gRPC with
identity, validation and the winners' rows, on SQLite and on PostgreSQL; NumPy computes on arrays that lie ready;
PostgreSQL with pgvector orders the rows of a namespace by exact distance, and by an HNSW index for each; ChromaDB's own
server has a collection for each namespace, LanceDB a table, in this process. Paths take turns in short rounds, so that
whatever else the machine does weighs on all of them. Beside that: the first search after a change, and the first of a
process.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import uvloop

from benchmarks.memory_stores import chroma, lance, ours, pgvector
from benchmarks.memory_stores.data import NAMESPACES, K, Matrix, dataset, exact, near, one_namespace
from benchmarks.memory_stores.probes import Probe, cpu_seconds, run_round
from benchmarks.memory_stores.report import print_table, write_plot

_MODULE = "benchmarks.memory_search"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rows: int
    dimension: int
    changed_rows: int
    """Rows of the namespace that is changed between searches."""
    cold_rows: int
    """Rows of the namespace that a process has not read yet."""
    rounds: int = 6
    queries: int = 60
    changes: int = 20
    starts: int = 3


_PLANS = {
    "20k": Plan(20_000, 1024, 15_000, 20_000),
    "100k": Plan(100_000, 384, 15_000, 100_000),
    "quick": Plan(2_500, 64, 1_000, 2_500, rounds=2, queries=20, changes=5, starts=1),
}


async def _measure(name: str, directory: Path, plot: Path, left_out: Sequence[str]) -> None:
    plan = _PLANS[name]
    matrices = dataset(plan.rows, plan.dimension)
    title = f"{plan.rows:,} x {plan.dimension}, {NAMESPACES} namespaces, k={K}"
    print(f"\n{title}", flush=True)

    async def in_process(number: int, query: Matrix) -> list[str]:
        return exact(matrices[number], query)

    probes = [Probe("exact NumPy, in process", in_process)]
    async with contextlib.AsyncExitStack() as stack:
        postgres_url, postgres = stack.enter_context(pgvector.postgres_server(directory))
        echo = await _add_ours(stack, directory, postgres_url, matrices, probes)
        copied = await _add_pgvector(stack, postgres_url, postgres, matrices, probes)
        if "chroma" not in left_out:
            rate = await asyncio.to_thread(chroma.fill, directory / "chroma", matrices)
            client, process = stack.enter_context(chroma.server(directory / "chroma"))
            probes.append(Probe("ChromaDB's server", chroma.search_in(client), process, saved_rows_per_second=rate))
        missing = lance.why_missing()
        if missing:
            print(f"LanceDB is left out: {missing}", flush=True)
        elif "lance" not in left_out:
            rate = await asyncio.to_thread(lance.fill, directory / "lance", matrices)
            search = lance.search_in(directory / "lance")
            probes.append(Probe("LanceDB, in process", search, psutil.Process(), saved_rows_per_second=rate))
        for probe in probes:
            # Every namespace is read once before anything counts.
            for number, matrix in enumerate(matrices):
                await probe.search(number, matrix[0])
        for number in range(plan.rounds):
            for probe in probes:
                await run_round(probe, matrices, number, plan.queries)
        print_table(probes, echo, copied)
        picture = plot / f"memory_search_{name}.svg"
        write_plot(picture, title, [probe for probe in probes if probe.recalls])
        print(f"written: {picture}", flush=True)
    await _measure_changes(plan, directory)


async def _add_ours(
    stack: contextlib.AsyncExitStack,
    directory: Path,
    postgres_url: str,
    matrices: Sequence[Matrix],
    probes: list[Probe],
) -> Probe:
    """Add the default store on both databases, and the echo, which is returned."""
    channel: grpc.aio.Channel | None = None
    for name, url in (("SQLite", ""), ("PostgreSQL", postgres_url)):
        place = directory / name
        rate = await ours.save(url or f"sqlite:///{place / 'memory.db'}", "memory", matrices)
        address, process = stack.enter_context(ours.server(_MODULE, "--serve", str(place), "--database-url", url))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        search = ours.search_over(channel)
        probes.append(Probe(f"memory over gRPC, {name}", search, process, saved_rows_per_second=rate))
    assert channel is not None
    answer = directory / "answer"
    answer.write_bytes(await ours.one_answer(channel, matrices[0][0]))
    address, process = stack.enter_context(ours.server(_MODULE, "--echo", str(answer)))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
    echo = Probe("bare gRPC echo of the same messages", ours.search_over(channel), process, recalls=False)
    probes.append(echo)
    return echo


async def _add_pgvector(
    stack: contextlib.AsyncExitStack,
    url: str,
    process: psutil.Process,
    matrices: Sequence[Matrix],
    probes: list[Probe],
) -> float | None:
    """Add pgvector, and return how many rows a second COPY takes; None where there is no pgvector."""
    pool = await stack.enter_async_context(pgvector.connections(url))
    if pool is None:
        print("pgvector is left out: this PostgreSQL does not have the extension", flush=True)
        return None
    copied = await pgvector.fill(pool, matrices)
    await pool.execute(f"VACUUM ANALYZE {pgvector.EXACT}")
    search = pgvector.search_in(pool, pgvector.EXACT)
    probes.append(Probe("pgvector, exact, filtered", search, process, saved_rows_per_second=copied))
    indexed = await pgvector.index(pool, matrices[0].shape[1])
    search = pgvector.search_in(pool, pgvector.HNSW)
    probes.append(Probe("pgvector, HNSW for each namespace", search, process, saved_rows_per_second=indexed))
    return copied


async def _measure_changes(plan: Plan, directory: Path) -> None:
    """Print what the first search after a change takes, and the first of a process, beside one that finds no change."""
    changed, cold = one_namespace(plan.changed_rows, plan.dimension), one_namespace(plan.cold_rows, plan.dimension)
    place = directory / "SQLite"
    await ours.save(f"sqlite:///{place / 'memory.db'}", "memory", [changed, cold], first=NAMESPACES)
    print(f"first searches over gRPC, SQLite, in one namespace of {plan.changed_rows:,} x {plan.dimension}", flush=True)
    random = np.random.default_rng(5)
    async with _client(place) as (channel, process):
        timer = _Timer(ours.search_over(channel), process)
        for number in range(plan.changes + 2):
            if number == 2:
                timer.forget()
            await timer.search("warm", NAMESPACES, near(random, changed))
            await ours.save_one(channel, NAMESPACES, f"new{number}", changed[number])
            await timer.search("after one save", NAMESPACES, near(random, changed))
            await ours.delete_one(channel, NAMESPACES, f"r{number}")
            await timer.search("after one removal", NAMESPACES, near(random, changed))
        timer.report()
    print(f"the first search of a process in one of {plan.cold_rows:,} x {plan.dimension}", flush=True)
    timers = []
    for _ in range(plan.starts):
        async with _client(place) as (channel, process):
            search = ours.search_over(channel)
            for _ in range(10):
                await search(0, changed[0])
            timers.append(_Timer(search, process))
            await timers[-1].search("cold", NAMESPACES + 1, near(random, cold))
            for _ in range(plan.changes):
                await timers[-1].search("warm", NAMESPACES + 1, near(random, cold))
    timers[0].joined(timers[1:]).report()


class _Timer:
    """Times searches by what went before them."""

    def __init__(self, search: Callable[[int, Matrix], Awaitable[list[str]]], process: psutil.Process) -> None:
        self._search = search
        self._process = process
        self._spent: dict[str, list[tuple[float, float]]] = {}

    async def search(self, after: str, number: int, query: Matrix) -> None:
        """Search, and note the milliseconds and those of the server's CPU."""
        before, started = cpu_seconds(self._process), time.perf_counter()
        await self._search(number, query)
        elapsed = time.perf_counter() - started
        self._spent.setdefault(after, []).append((elapsed * 1e3, (cpu_seconds(self._process) - before) * 1e3))

    def forget(self) -> None:
        """Forget what was noted so far."""
        self._spent.clear()

    def joined(self, others: "Sequence[_Timer]") -> "_Timer":
        """Take over what others have noted."""
        for other in others:
            for after, spent in other._spent.items():
                self._spent.setdefault(after, []).extend(spent)
        return self

    def report(self) -> None:
        """Print medians; of CPU, which the system counts in steps, means."""
        warm = self._spent["warm"]
        for after, spent in self._spent.items():
            elapsed = statistics.median(ms for ms, _ in spent)
            cpu = statistics.fmean(ms for _, ms in spent)
            times = elapsed / statistics.median(ms for ms, _ in warm)
            print(f"  {after:20}{elapsed:9.2f} ms, {times:6.1f} times a warm one; CPU {cpu:.1f} ms", flush=True)


@contextlib.asynccontextmanager
async def _client(place: Path) -> AsyncIterator[tuple[grpc.aio.Channel, psutil.Process]]:
    with ours.server(_MODULE, "--serve", str(place), "--database-url", "") as (address, process):
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel, process


def main() -> None:
    """Measure, or be a server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--database-url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--echo", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=[*_PLANS], action="append", help="which data (default: 20k and 100k)")
    parser.add_argument("--quick", action="store_true", help="little data, in a minute, to see that everything works")
    parser.add_argument("--without", choices=["chroma", "lance"], action="append", default=[], help="leave a store out")
    parser.add_argument("--plot", type=Path, default=Path("build"), help="directory for the pictures (default: build)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.serve is not None:
        uvloop.run(ours.serve(arguments.serve, arguments.database_url))
        return
    if arguments.echo is not None:
        uvloop.run(ours.echo(arguments.echo.read_bytes()))
        return
    # What was started is ended by the blocks that started it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for size in ["quick"] if arguments.quick else arguments.size or ["20k", "100k"]:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(_measure(size, Path(directory), arguments.plot, arguments.without))


if __name__ == "__main__":
    main()
