"""How fast memory imports and saves, beside COPY into a table of pgvector: the same rows, in turns, in the same run.

Each round copies and saves the same vectors into a namespace of its own, in portions of 1000: over gRPC by
ImportRecords with identity and validation, and by the store in this process. Ratios are medians over the rounds, of
elapsed time and of CPU, which counts that of all processes (callers, servers and PostgreSQL) and says more on a busy
machine.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import grpc
import psutil
import uvloop

from benchmarks.memory_stores import ours, pgvector
from benchmarks.memory_stores.data import Matrix, one_namespace
from benchmarks.memory_stores.probes import cpu_seconds
from services.common.runner import settle

_MODULE = "benchmarks.memory_search"
_COPY = "COPY into pgvector"

Save: TypeAlias = Callable[[int], Awaitable[None]]


async def _measure(rows: int, dimension: int, rounds: int) -> None:
    matrix = one_namespace(rows, dimension)
    print(f"\n{rows:,} x {dimension}, medians of {rounds} rounds", flush=True)
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, postgres = stack.enter_context(pgvector.postgres_server(directory))
        pool = await stack.enter_async_context(pgvector.connections(url))
        if pool is None:
            print("this PostgreSQL does not have pgvector")
            return

        async def copy(number: int) -> None:
            await pgvector.fill(pool, [matrix], table=f"copied_{number}")

        ways: dict[str, Save] = {_COPY: copy}
        processes = [psutil.Process(), postgres]
        for name, given in (("SQLite", ""), ("PostgreSQL", url)):
            place = directory / name
            address, process = stack.enter_context(ours.server(_MODULE, "--serve", str(place), "--database-url", given))
            processes.append(process)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            ways[f"ImportRecords, {name}"] = _importing(channel, matrix)
            saver = await stack.enter_async_context(ours.saver(given or f"sqlite:///{place / 'memory.db'}", "memory"))
            ways[f"store in process, {name}"] = _saving(saver, matrix, 1000)
        settle()
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, save in ways.items():
                before, started = sum(map(cpu_seconds, processes)), time.perf_counter()
                await save(number)
                elapsed = time.perf_counter() - started
                # The first round opens connections and prepares statements.
                if number:
                    spent[name].append((elapsed, sum(map(cpu_seconds, processes)) - before))
        _report(spent, rows)


def _saving(save: ours.Save, matrix: Matrix, first: int) -> Save:
    async def run(number: int) -> None:
        await save(first + number, matrix)

    return run


def _importing(channel: grpc.aio.Channel, matrix: Matrix) -> Save:
    messages = ours.import_messages(matrix)

    async def run(number: int) -> None:
        await ours.import_all(channel, number, messages)

    return run


def _report(spent: dict[str, list[tuple[float, float]]], rows: int) -> None:
    print(f"{'':34}{'rows/s':>10}{'of COPY':>9}{'CPU us/row':>12}{'of COPY':>9}")
    for name, took in spent.items():
        elapsed, cpu = (statistics.median(each) for each in zip(*took, strict=True))
        paired = list(zip(spent[_COPY], took, strict=True))
        of_time = statistics.median(copied[0] / own[0] for copied, own in paired)
        of_cpu = statistics.median(copied[1] / max(own[1], 1e-3) for copied, own in paired)
        print(f"{name:34}{rows / elapsed:10,.0f}{of_time:9.2f}{1e6 * cpu / rows:12.0f}{of_cpu:9.2f}", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, action="append", help="default: 1024 and 384")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for dimension in arguments.dimension or [1024, 384]:
        uvloop.run(_measure(arguments.rows, dimension, arguments.rounds))


if __name__ == "__main__":
    main()
