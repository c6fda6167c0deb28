"""Many worker hosts in one process on PostgreSQL: what they ask while idle, and how they share many executions.

Leases, locks, hints, the line, claims and takeovers are the product's own. Crews are virtual: a run waits a while and
then stores its end. So what is counted is what hosts do for each other and for the line, and not what crews do.

A thousand executions at once: --hosts 100 --slots 10 --executions 1000 --crew-seconds 60.
"""

import argparse
import asyncio
import collections
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import structlog
from pgserver.postgres_server import get_server
from sqlalchemy import make_url

from benchmarks.idle import shape
from benchmarks.statements import Log, prepare
from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.migrate import upgrade_database
from services.common.periodic import every
from services.orchestrator.domain.execution import Success, TaskOutput
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.worker.host import dispatcher
from services.orchestrator.worker.host.host import IDLE_READS
from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from services.orchestrator.worker.host.run_store import Claim, RunStore
from services.orchestrator.worker.host.segment_recovery import SegmentRecovery
from services.orchestrator.worker.settings import WorkerSettings
from tests.integration.worker.rows import queue

_GROUPS = 20
_SETTLING_SECONDS = 10
_TAKE_SECONDS = 0.25
"""What each execution may take beside the time of its crew before the run counts as stuck; some 10 ms is usual."""


class Progress:
    """When executions began, by their groups, and which have ended."""

    def __init__(self, database: Database, crew_seconds: float) -> None:
        self.database = database
        self.crew_seconds = crew_seconds
        self.began: list[tuple[float, str]] = []
        self.at_work = 0
        self.most_at_work = 0
        self.ended: set[str] = set()


class VirtualRun:
    """Takes the place of `ExecutionRun`."""

    progress: Progress

    def __init__(self, claim: Claim, _context: object, _on_rest: object) -> None:
        self._execution = claim.execution

    def stop(self, reason: object) -> None:
        """Go on: nothing is cancelled here."""

    async def run(self) -> None:
        """Wait as a crew does for its model, and end."""
        progress = self.progress
        progress.began.append((time.monotonic(), self._execution.group_id))
        progress.at_work += 1
        progress.most_at_work = max(progress.most_at_work, progress.at_work)
        try:
            await asyncio.sleep(progress.crew_seconds)
            async with progress.database.write() as connection:
                await EventRepository(connection).append(
                    self._execution.id, [], succeeded=Success(TaskOutput("done"), utc_now())
                )
            progress.ended.add(self._execution.id)
        finally:
            progress.at_work -= 1


class SimulatedHost:
    """What `WorkerHost` does beside running crews. All share the connections for statements."""

    def __init__(self, number: int, url: str, database: Database, slots: int) -> None:
        self.executor_id = f"host-{number}"
        settings = WorkerSettings(slots=slots)
        store = RunStore(database)
        self._direct = Database(url, "orchestrator", null_pool=True)
        self._bus = PostgresHintBus(self._direct)
        self._lease = LeaseKeeper(
            LeaseConnection(make_url(url), "orchestrator", self.executor_id, settings.lease_seconds),
            ttl=settings.lease_seconds,
            interval=settings.heartbeat_seconds,
            on_lost=lambda: None,
        )
        self._recovery = SegmentRecovery(
            store,
            LeaseStore(database),
            self.executor_id,
            self._bus,
            look_seconds=settings.sweep_seconds,
            read_seconds=settings.safety_read_seconds,
        )
        context = SimpleNamespace(store=store, hints=self._bus, settings=settings)
        self._dispatcher = dispatcher.Dispatcher(
            self.executor_id, cast("Any", context), self._lease, idle_reads=IDLE_READS
        )
        self._background = BackgroundTasks()

    async def start(self) -> None:
        """Begin to take executions."""
        await self._bus.start()
        self._background.start(self._lease.run())
        await self._lease.held.wait()
        recovery = self._recovery
        for work in (
            self._dispatcher.run(),
            every(lambda: recovery.seconds_to_look, recovery.take_over, name="take_over", first_pause=False),
            recovery.keep_waking(),
        ):
            self._background.start(work)

    async def stop(self) -> None:
        """End as a process does that is told to."""
        await self._background.stop()
        await self._lease.give_up()
        await self._bus.close()
        await self._direct.close()


async def measure(url: str, log_file: Path, arguments: argparse.Namespace) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    await upgrade_database("orchestrator", url)
    database = Database(url, "orchestrator", pool_size=20)
    VirtualRun.progress = progress = Progress(database, arguments.crew_seconds)
    dispatcher.ExecutionRun = VirtualRun  # type: ignore[assignment, attr-defined]
    hosts = [SimulatedHost(number, url, database, arguments.slots) for number in range(arguments.hosts)]
    for host in hosts:
        await host.start()
    await asyncio.sleep(_SETTLING_SECONDS)
    log = Log(log_file)
    await _idle(log, len(hosts), arguments.seconds)
    await _burst(url, database, progress, log, arguments)
    for host in hosts:
        await host.stop()
    await database.close()


async def _idle(log: Log, hosts: int, seconds: float) -> None:
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    idle, passed, used = log.count(shape), time.monotonic() - began, time.process_time() - cpu
    for statement, count in idle.most_common(8):
        print(f"{count / passed:7.2f}/s  {statement[:110]}")
    print(f"{sum(idle.values()) / passed:7.2f}/s statements of {hosts} idle hosts")
    print(f"{100 * used / passed:7.2f} % of a core for all of them", flush=True)


async def _burst(url: str, database: Database, progress: Progress, log: Log, arguments: argparse.Namespace) -> None:
    """Queue executions, nine tenths of them of one group, and print how they were shared."""
    direct = Database(url, "orchestrator", null_pool=True)
    bus = PostgresHintBus(direct)
    await bus.start()
    count: int = arguments.executions
    small = count // 10
    groups = ["large"] * (count - small) + [f"small-{number % _GROUPS}" for number in range(small)]
    queued = [await queue(database, group_id=group_id, ready=False) for group_id in groups]
    log.count()
    began, cpu = time.monotonic(), time.process_time()
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE orchestrator.executions SET ready = true")
    for execution_id in queued:
        bus.publish(Hint(HintKind.EXECUTION_READY, execution_id))
    rounds = -(-count // (arguments.hosts * arguments.slots))
    await _all_ended(progress, count, 30 + rounds * progress.crew_seconds + count * _TAKE_SECONDS)
    whole = time.monotonic() - began
    counted = log.count(shape)
    print(f"{whole:7.1f} s for {count} executions of {progress.crew_seconds:g} s each")
    print(f"{progress.most_at_work:7} at work at once, in {arguments.hosts * arguments.slots} slots and reserved ones")
    print(f"{len(progress.began) - count:7} taken more than once")
    print(f"{sum(counted.values()) / count:7.1f} statements for each execution, of these most:")
    for statement, number in counted.most_common(8):
        print(f"{number / count:7.2f}  {statement[:110]}")
    print(f"{1000 * (time.process_time() - cpu) / count:7.1f} ms of CPU for each execution, all hosts together")
    waits = collections.defaultdict(list)
    for at, group_id in progress.began:
        waits[group_id.partition("-")[0]].append(at - began)
    for name, seconds in sorted(waits.items()):
        print(f"{name:8} waited {statistics.median(seconds):6.2f} s in the middle, {max(seconds):.2f} s at most")
    await bus.close()
    await direct.close()


async def _all_ended(progress: Progress, count: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while len(progress.ended) < count:  # hosts tell nobody
        if time.monotonic() > until:
            sys.exit(
                f"stuck after {seconds:.0f} s: {len(progress.ended)} of {count} have ended, {progress.at_work} run"
            )
        await asyncio.sleep(0.1)


async def _allow_connections(url: str, count: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"ALTER SYSTEM SET max_connections = {count}")
    finally:
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--slots", type=int, default=4, help="of each host")
    parser.add_argument("--executions", type=int, default=200)
    parser.add_argument("--crew-seconds", type=float, default=3.0, help="how long each execution takes")
    parser.add_argument("--seconds", type=float, default=30, help="how long idle hosts are looked at")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coxswain-bench-") as directory:
        data = Path(directory) / "pg"
        server = get_server(data)
        asyncio.run(_allow_connections(server.get_uri(), 3 * arguments.hosts + 80))
        server.cleanup()
        server = get_server(data)
        try:
            asyncio.run(prepare(server.get_uri()))
            url = server.get_uri().replace("/postgres?", "/bench?")
            asyncio.run(measure(url, data / "log", arguments))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
