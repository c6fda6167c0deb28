"""Many worker hosts in one process on PostgreSQL: what they ask while idle, and how they share a thousand executions.

Leases, locks, hints, the line, claims and takeovers are the product's own. Crews are virtual: a run waits a while and
then stores its end. So what is counted is what hosts do for each other and for the line, and not what crews do.
"""

import argparse
import asyncio
import collections
import statistics
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
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.worker.host import dispatcher
from services.orchestrator.worker.host.host import IDLE_READS
from services.orchestrator.worker.host.lease import LeaseKeeper
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from services.orchestrator.worker.host.run_store import Claim, RunStore
from services.orchestrator.worker.host.segment_recovery import SegmentRecovery
from services.orchestrator.worker.settings import WorkerSettings
from tests.integration.worker.rows import queue

_EXECUTIONS = 1000
_GROUPS = 20
_CREW_SECONDS = 3.0
_SETTLING_SECONDS = 15
_SLOTS = 4


class Progress:
    """When executions began, by their groups, and which have ended."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.began: list[tuple[float, str]] = []
        self.ended = 0


class VirtualRun:
    """Takes the place of `ExecutionRun`."""

    progress: Progress

    def __init__(self, claim: Claim, _context: object, _on_rest: object) -> None:
        self._execution = claim.execution

    def stop(self, reason: object) -> None:
        """Go on: nothing is cancelled here."""

    async def run(self) -> None:
        """Wait as a crew does for its model, and end."""
        self.progress.began.append((time.monotonic(), self._execution.group_id))
        await asyncio.sleep(_CREW_SECONDS)
        async with self.progress.database.write() as connection:
            await ExecutionRepository(connection).succeed(self._execution.id, TaskOutput("done"), utc_now())
        self.progress.ended += 1


class SimulatedHost:
    """What `WorkerHost` does beside running crews. All share the connections for statements."""

    def __init__(self, number: int, url: str, database: Database) -> None:
        self.executor_id = f"host-{number}"
        settings = WorkerSettings(slots=_SLOTS)
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


async def measure(url: str, log_file: Path, hosts: int, seconds: float) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    await upgrade_database("orchestrator", url)
    database = Database(url, "orchestrator", pool_size=20)
    VirtualRun.progress = progress = Progress(database)
    dispatcher.ExecutionRun = VirtualRun  # type: ignore[assignment, attr-defined]
    running = [SimulatedHost(number, url, database) for number in range(hosts)]
    for host in running:
        await host.start()
    await asyncio.sleep(_SETTLING_SECONDS)
    log = Log(log_file)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    idle, passed = log.count(shape), time.monotonic() - began
    for statement, count in idle.most_common(8):
        print(f"{count / passed:7.2f}/s  {statement[:110]}")
    print(f"{sum(idle.values()) / passed:7.2f}/s statements of {hosts} idle hosts")
    await _burst(url, database, progress, log)
    for host in running:
        await host.stop()
    await database.close()


async def _burst(url: str, database: Database, progress: Progress, log: Log) -> None:
    """Queue a thousand executions, nine tenths of them of one group, and print how they were shared."""
    direct = Database(url, "orchestrator", null_pool=True)
    bus = PostgresHintBus(direct)
    await bus.start()
    small = _EXECUTIONS // 10
    groups = ["large"] * (_EXECUTIONS - small) + [f"small-{number % _GROUPS}" for number in range(small)]
    queued = []
    for group_id in groups:
        queued.append(await queue(database, group_id=group_id, ready=False))
    log.count()
    began = time.monotonic()
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE orchestrator.executions SET ready = true")
    for execution_id in queued:
        bus.publish(Hint(HintKind.EXECUTION_READY, execution_id))
    while progress.ended < len(queued):  # noqa: ASYNC110 - hosts tell nobody
        await asyncio.sleep(0.1)
    whole = time.monotonic() - began
    counted = sum(log.count().values())
    waits = collections.defaultdict(list)
    for at, group_id in progress.began:
        waits[group_id.partition("-")[0]].append(at - began)
    print(f"{whole:7.1f} s for {len(queued)} executions of {_CREW_SECONDS:g} s each")
    print(f"{counted / len(queued):7.1f} statements for each execution")
    for name, seconds in sorted(waits.items()):
        print(f"{name:8} waited {statistics.median(seconds):6.2f} s in the middle, {max(seconds):.2f} s at most")
    await bus.close()
    await direct.close()


async def _allow_connections(url: str, count: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"ALTER SYSTEM SET max_connections = {count}")
    finally:
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
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
            asyncio.run(measure(url, data / "log", arguments.hosts, arguments.seconds))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
