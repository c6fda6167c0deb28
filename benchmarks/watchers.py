"""Watchers over three replicas: are events told once and in order, and what do unary calls wait meanwhile?

All services are processes of their own on PostgreSQL. Events are stored as a worker host stores them, some for each
execution in a second. Calls of GetExecution go to all replicas in turn: first with events and nobody who watches, then
with all watchers, who are in a process of their own. A thousand watchers fit on one machine with all the rest; ten
thousand need other machines for the replicas.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

# PostgreSQL is started as another user, for which Python forks: gRPC's handlers would say so.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import asyncpg
import grpc
import psutil
import uvloop
from pgserver.postgres_server import get_server

from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.common.db.database import Database
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.hints.postgres import PostgresHintBus
from tests.integration.orchestrator.support import Worker
from tests.integration.worker.rows import queue
from tests.support.service_processes import ServiceProcesses

_METADATA = (("authorization", "Bearer dev:alice:sales=editor"),)
_GROUP = "sales"
_CALLS_PER_SECOND = 40
_ON_ONE_CONNECTION = 50
_PORT = re.compile(r"serving on (\S+),")


@dataclass(frozen=True)
class Calls:
    """Seconds of unary calls, and what replicas used meanwhile."""

    name: str
    seconds: list[float]
    cores: float

    def line(self) -> str:
        ordered = sorted(self.seconds)
        p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99)]
        return (
            f"{self.name:16} {len(ordered):5} calls, p50 {p50 * 1000:6.1f} ms, p99 {p99 * 1000:6.1f} ms, "
            f"replicas use {self.cores:.2f} cores"
        )


@dataclass(frozen=True)
class Replicas:
    """The processes of the orchestrator, by their public addresses."""

    addresses: list[str]
    processes: list[psutil.Process]

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)


class Story:
    """Executions to which events are stored, one after the other, all the time."""

    def __init__(self, worker: Worker, events_per_second: float) -> None:
        self._worker = worker
        self._events_per_second = events_per_second
        self.ids: list[str] = []
        self.stored = 0

    async def begin(self, executions: int) -> None:
        for _ in range(executions):
            execution_id = await queue(self._worker.database, group_id=_GROUP, subject="alice", ready=False)
            await self._worker.claim(execution_id)
            self.ids.append(execution_id)

    async def tell(self) -> None:
        """Store events until cancelled."""
        for number, execution_id in zip(count(), cycle(self.ids), strict=False):
            began = time.monotonic()
            await self._worker.emit(execution_id, pb.LlmChunk(call_id="c", text=f"piece {number} "))
            self.stored += 1
            due = 1 / (self._events_per_second * len(self.ids))
            await asyncio.sleep(max(0.0, due - (time.monotonic() - began)))

    async def end(self) -> None:
        for execution_id in self.ids:
            await self._worker.end(execution_id, ExecutionState.SUCCEEDED, pb.ExecutionSucceeded())


async def _measured(name: str, stubs: Sequence[Any], ids: Sequence[str], seconds: float, replicas: Replicas) -> Calls:
    """Call at a steady rate, however long calls take."""
    taken: list[float] = []

    async def call(stub: Any, execution_id: str) -> None:
        began = time.perf_counter()
        await stub.GetExecution(pb.GetExecutionRequest(id=execution_id), metadata=_METADATA)
        taken.append(time.perf_counter() - began)

    began, cpu = time.monotonic(), replicas.cpu_seconds()
    pairs = zip(cycle(stubs), cycle(ids), strict=False)
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * _CALLS_PER_SECOND)):
            group.create_task(call(*next(pairs)))
            await asyncio.sleep(max(0.0, began + (number + 1) / _CALLS_PER_SECOND - time.monotonic()))
    used = replicas.cpu_seconds() - cpu
    return Calls(name, taken, used / (time.monotonic() - began))


async def measure(url: str, replicas: Replicas, arguments: argparse.Namespace) -> None:
    channels = [grpc.aio.insecure_channel(address) for address in replicas.addresses]
    stubs = [ExecutionServiceStub(channel) for channel in channels]
    database = Database(url, "orchestrator")
    bus = PostgresHintBus(database)
    await bus.start()
    story = Story(Worker(database, bus), arguments.events)
    await story.begin(arguments.executions)
    telling = asyncio.create_task(story.tell())
    seconds = arguments.seconds
    await _measured("warm", stubs, story.ids, seconds / 4, replicas)
    found = [await _measured("nobody watches", stubs, story.ids, seconds, replicas)]
    watchers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.watchers", "--watch"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert watchers.stdin is not None
    assert watchers.stdout is not None
    asked = {"addresses": replicas.addresses, "ids": story.ids, "watchers": arguments.watchers}
    watchers.stdin.write(json.dumps(asked).encode() + b"\n")
    began = time.monotonic()
    if not await watchers.stdout.readline():
        sys.exit("the watchers did not start")
    print(f"{arguments.watchers} watchers have their first event after {time.monotonic() - began:.1f} s", flush=True)
    stored, began = story.stored, time.monotonic()
    found.append(await _measured("all watch", stubs, story.ids, seconds, replicas))
    rate = (story.stored - stored) / (time.monotonic() - began)
    telling.cancel()
    await story.end()
    seen = json.loads(await watchers.stdout.readline())
    await watchers.wait()
    for calls in found:
        print(calls.line())
    each = arguments.watchers / arguments.executions
    print(f"{rate:.0f} events/s stored, {rate * each:.0f} events/s told; {seen['events']} events told in all")
    print(f"seconds from an event to a watcher: p50 {seen['p50']:.3f}, p99 {seen['p99']:.3f}")
    print(f"{seen['wrong']} of {arguments.watchers} watchers missed an event, or saw one twice or out of order")
    for channel in channels:
        await channel.close()
    await bus.close()
    await database.close()


async def _watch() -> None:
    """Be all the watchers: one line in says of what, one line out that all have begun, and one what they saw."""
    asked = json.loads(sys.stdin.readline())
    begun = asyncio.Semaphore(0)
    delays: list[float] = []

    async def watch(stub: Any, execution_id: str) -> list[int]:
        sequences: list[int] = []
        call = stub.WatchExecution(pb.WatchExecutionRequest(id=execution_id), metadata=_METADATA)
        caught_up = False
        async for response in call:
            if not sequences:
                begun.release()
            sequences.append(response.event.sequence)
            delay = time.time() - response.event.time.ToNanoseconds() / 1e9
            # What was stored before it watched tells nothing of how fast it hears.
            caught_up = caught_up or delay < 1
            if caught_up:
                delays.append(delay)
        return sequences

    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    stubs: list[Any] = []
    watching = []
    for number in range(asked["watchers"]):
        if number % _ON_ONE_CONNECTION == 0:
            addresses = asked["addresses"]
            address = addresses[number // _ON_ONE_CONNECTION % len(addresses)]
            stubs.append(ExecutionServiceStub(grpc.aio.insecure_channel(address, options=own_connection)))
        watching.append(asyncio.create_task(watch(stubs[-1], asked["ids"][number % len(asked["ids"])])))
    for _ in watching:
        await begun.acquire()
    print("begun", flush=True)
    seen = await asyncio.gather(*watching)
    executions = len(asked["ids"])
    last = [max(each[-1] for each in seen[n::executions]) for n in range(executions)]
    expected = [list(range(1, last[n % executions] + 1)) for n in range(len(seen))]
    delays.sort()
    result = {
        "events": sum(map(len, seen)),
        "wrong": sum(got != wanted for got, wanted in zip(seen, expected, strict=True)),
        "p50": statistics.median(delays),
        "p99": delays[int(len(delays) * 0.99)],
    }
    print(json.dumps(result), flush=True)


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE DATABASE bench")
    finally:
        await connection.close()


def main() -> None:
    """Serve and measure, or watch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--executions", type=int, default=20)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--events", type=float, default=1.0, help="of each execution in a second (default 1)")
    parser.add_argument("--seconds", type=float, default=30, help="of calls that are measured, each time (default 30)")
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        uvloop.run(_watch())
        return
    with tempfile.TemporaryDirectory(prefix="coxswain-bench-") as directory:
        server = get_server(Path(directory) / "pg")
        try:
            asyncio.run(_create_database(server.get_uri()))
            url = server.get_uri().replace("/postgres?", "/bench?")
            data_dir = Path(directory) / "data"
            data_dir.mkdir()
            installation = ServiceProcesses(data_dir, url, {"COXSWAIN_LOG_LEVEL": "WARNING"}, workers=0)
            with installation.running():
                more = [installation.replicate("orchestrator") for _ in range(arguments.replicas - 1)]
                processes = [installation.processes()["orchestrator"], *(psutil.Process(each.pid) for each in more)]
                found = [_PORT.search(each.wait_for_line("serving on")) for each in more]
                addresses = [installation.address("orchestrator"), *(each.group(1) for each in found if each)]
                uvloop.run(measure(url, Replicas(addresses, processes), arguments))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
