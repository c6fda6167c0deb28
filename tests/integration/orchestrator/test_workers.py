"""Who runs executions, as callers see it."""

import asyncio
from pathlib import Path

from coxswain.orchestrator.v1 import worker_pb2 as pb
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceStub
from services.common.db.database import Database
from services.common.settings import database_url as service_url
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from tests.support.harness import serve_services


async def test_hosts_are_listed_while_their_lease_lasts(tmp_path: Path, database_url: str) -> None:
    async with serve_services(tmp_path, "models", "orchestrator", database_url=database_url) as harness:
        database = Database(service_url(harness.host._settings, "orchestrator"), "orchestrator")
        stub = WorkerServiceStub(harness.channel())
        assert (await stub.ListWorkers(pb.ListWorkersRequest())).worker_count == 0
        hosts = [
            LeaseConnection(database.url, "orchestrator", name, 60.0) for name in ("first", "second", "gone", "killed")
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
            assert 59e9 < lasts < 120e9
        for host in hosts:
            host.close()
        await database.close()
