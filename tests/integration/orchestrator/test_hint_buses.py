"""Hints between processes: through PostgreSQL, and between a worker host and the API."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from coxswain.orchestrator.v1 import worker_pb2 as pb
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceStub
from services.common.db.database import Database
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import Subscription
from services.orchestrator.hints.postgres import PostgresHintBus
from services.orchestrator.hints.remote import RemoteHintBus
from services.orchestrator.service import OrchestratorService
from tests.integration.orchestrator.support import refused
from tests.support.harness import Harness, serve_services
from tests.support.service_tables import make_service_tables

READY = Hint(HintKind.EXECUTION_READY, "e-1")
STORED = Hint(HintKind.EVENTS_STORED, "e-1", 7)


@pytest.fixture
async def sqlite_harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Where the database carries no hints."""
    async with serve_services(tmp_path, "orchestrator") as served:
        yield served


async def received(subscription: Subscription, hint: Hint) -> None:
    async with asyncio.timeout(60):
        while hint not in await subscription.take():
            pass


async def test_hints_reach_every_process_on_one_postgresql_its_own_included(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    databases = [Database(postgres_url, "orchestrator") for _ in range(3)]
    buses = [PostgresHintBus(database) for database in databases]
    kinds = (HintKind.EXECUTION_READY, HintKind.EVENTS_STORED)
    with buses[0].subscribe(*kinds) as first, buses[1].subscribe(*kinds) as second:
        for bus in buses[:2]:
            await bus.start()
        for subscription in (first, second):
            await received(subscription, Hint(HintKind.RESYNC))
        buses[0].publish(READY)
        buses[0].publish(STORED)
        for subscription in (first, second):
            heard: set[Hint] = set()
            async with asyncio.timeout(60):
                while not heard >= {READY, STORED}:
                    heard |= set(await subscription.take())
    for bus, database in zip(buses, databases, strict=True):
        await bus.close()
        await database.close()


async def test_a_broken_connection_is_opened_again_and_says_that_hints_may_be_lost(postgres_url: str) -> None:
    def interruptions() -> float:
        return REGISTRY.get_sample_value("coxswain_hints_interrupted_total") or 0.0

    make_service_tables("orchestrator", postgres_url)
    database, other = Database(postgres_url, "orchestrator"), Database(postgres_url, "orchestrator")
    bus = PostgresHintBus(database)
    before = interruptions()
    with bus.subscribe(HintKind.EXECUTION_READY) as subscription:
        await bus.start()
        await received(subscription, Hint(HintKind.RESYNC))
        async with other.write() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        bus.publish(READY)
        await received(subscription, Hint(HintKind.RESYNC))
        # It goes out after the connection is back: nobody has to publish it again.
        await received(subscription, READY)
    assert interruptions() > before
    await bus.close()
    await database.close()
    await other.close()


async def test_no_connection_that_listens_goes_back_to_the_pool(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    database = Database(postgres_url, "orchestrator")
    bus = PostgresHintBus(database)
    with bus.subscribe(HintKind.EXECUTION_READY) as subscription:
        await bus.start()
        await received(subscription, Hint(HintKind.RESYNC))
    await bus.close()
    async with database.read() as connection:
        listening = await connection.execute(text("SELECT count(*) FROM pg_listening_channels()"))
        assert listening.scalar_one() == 0
    await database.close()


async def test_a_worker_host_and_the_api_hear_each_other(sqlite_harness: Harness) -> None:
    service = sqlite_harness.services["orchestrator"]
    assert isinstance(service, OrchestratorService)
    host = RemoteHintBus(sqlite_harness.peers("orchestrator").channel("orchestrator"), "host-1")
    with (
        host.subscribe(HintKind.EXECUTION_READY, HintKind.EVENTS_STORED) as at_host,
        service._bus.subscribe(HintKind.EVENTS_STORED) as at_api,
    ):
        await host.start()
        await received(at_host, Hint(HintKind.RESYNC))
        service._bus.publish(READY)
        await received(at_host, READY)
        host.publish(STORED)
        await received(at_api, STORED)
    await host.close()


async def test_a_host_cut_off_subscribes_again_and_is_told_that_hints_may_be_lost(sqlite_harness: Harness) -> None:
    service = sqlite_harness.services["orchestrator"]
    assert isinstance(service, OrchestratorService)
    host = RemoteHintBus(sqlite_harness.peers("orchestrator").channel("orchestrator"), "host-1")
    with host.subscribe(HintKind.EXECUTION_READY) as at_host:
        await host.start()
        await received(at_host, Hint(HintKind.RESYNC))
        # What the API's own bus says when it lost hints ends the streams of all hosts.
        service._bus.publish(Hint(HintKind.RESYNC))
        await received(at_host, Hint(HintKind.RESYNC))
        service._bus.publish(READY)
        await received(at_host, READY)
    await host.close()


async def test_a_draining_api_ends_the_streams_of_hosts_and_takes_no_new_ones(sqlite_harness: Harness) -> None:
    channel = sqlite_harness.peers("orchestrator").channel("orchestrator")
    request = pb.SubscribeHintsRequest(executor_id="host-1")
    stream = WorkerServiceStub(channel).SubscribeHints(request)
    await stream.initial_metadata()
    await sqlite_harness.services["orchestrator"].drain()
    for call in (stream, WorkerServiceStub(channel).SubscribeHints(request)):
        with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await call.read()


async def test_hints_are_for_services_only(harness: Harness) -> None:
    public = WorkerServiceStub(harness.channel())
    hint = pb.Hint(kind=pb.HINT_KIND_EXECUTION_READY, execution_id="e")
    # The public listener does not have the service at all.
    with refused(grpc.StatusCode.UNIMPLEMENTED, ""):
        await public.PublishHint(pb.PublishHintRequest(hint=hint))
    async with grpc.aio.insecure_channel(harness.internal_address) as channel:
        internal = WorkerServiceStub(channel)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SERVICE_IDENTITY_REQUIRED"):
            await internal.PublishHint(pb.PublishHintRequest(hint=hint))
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SERVICE_IDENTITY_REQUIRED"):
            await internal.SubscribeHints(pb.SubscribeHintsRequest(executor_id="x")).read()
