"""Who runs executions, as callers see it."""

import asyncio
from pathlib import Path

from sqlalchemy import update

from coxswain.orchestrator.v1 import worker_pb2 as pb
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceStub
from services.common.db.database import Database
from services.common.release import RELEASE
from services.common.settings import database_url as service_url
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.repositories.worker_slots import WorkerSlotsRepository
from services.orchestrator.tables import worker_slots
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from tests.support.harness import serve_services


async def test_hosts_are_listed_while_their_lease_lasts(tmp_path: Path, database_url: str) -> None:
    async with serve_services(tmp_path, "models", "orchestrator", database_url=database_url) as harness:
        database = Database(service_url(harness.host._settings, "orchestrator"), "orchestrator")
        stub = WorkerServiceStub(harness.channel())
        assert (await stub.ListWorkers(pb.ListWorkersRequest())).worker_count == 0
        hosts = [
            LeaseConnection(database.url, "orchestrator", name, 600.0) for name in ("first", "second", "gone", "killed")
        ]
        for host in hosts:
            # As hosts do, in a thread: on this loop it could wait for a lock that the service gives up on this loop.
            await asyncio.to_thread(host.renew)
        await asyncio.to_thread(hosts[2].end)
        # What whoever ran it says.
        await LeaseStore(database).end("killed")
        member = await stub.ListWorkers(pb.ListWorkersRequest())
        assert (list(member.workers), member.worker_count) == ([], 2)
        admin = WorkerServiceStub(harness.channel(""))
        workers = (await admin.ListWorkers(pb.ListWorkersRequest())).workers
        assert [worker.executor_id for worker in workers] == ["first", "second"]
        for worker in workers:
            lasts = worker.lease_expire_time.ToNanoseconds() - worker.start_time.ToNanoseconds()
            assert 599e9 < lasts < 1200e9
        for host in hosts:
            host.close()
        await database.close()


async def test_operators_see_of_which_releases_hosts_and_gateway_are(tmp_path: Path, database_url: str) -> None:
    async with serve_services(tmp_path, "models", "tools", "orchestrator", database_url=database_url) as harness:
        database = Database(service_url(harness.host._settings, "orchestrator"), "orchestrator")
        operator = WorkerServiceStub(harness.channel("dev:alice:sales=operator"))
        nobody = await operator.ListWorkers(pb.ListWorkersRequest())
        assert (nobody.tool_gateway_release, list(nobody.worker_releases)) == (RELEASE, [])
        hosts = [LeaseConnection(database.url, "orchestrator", name, 600.0) for name in ("new", "old", "starting")]
        for host in hosts:
            await asyncio.to_thread(host.renew)
        async with database.write() as connection:
            for name in ("new", "old", "dead"):
                await WorkerSlotsRepository(connection).put(name, 4, 1, None)
            # What a host of the release before leaves, and one of another release whose lease is over.
            for name, release in (("old", None), ("dead", "0.0.9")):
                await connection.execute(
                    update(worker_slots).where(worker_slots.c.executor_id == name).values(release=release)
                )
        assert list((await operator.ListWorkers(pb.ListWorkersRequest())).worker_releases) == ["", RELEASE]
        workers = (await WorkerServiceStub(harness.channel("")).ListWorkers(pb.ListWorkersRequest())).workers
        assert {worker.executor_id: worker.release for worker in workers} == {"new": RELEASE, "old": "", "starting": ""}
        for host in hosts:
            host.close()
        await database.close()
