"""What is done, and told, although nobody asks for it."""

import asyncio
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select, update

from services.common.clock import utc_now
from services.common.db.idempotency import forget_requests
from services.orchestrator.domain.execution import ExecutionState, OverlapPolicy
from services.orchestrator.tables import executions, requests
from services.orchestrator.usecases import housekeeping
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from tests.integration.orchestrator.use_cases import ALICE, Orchestrator


def counted(metric: str, label: str) -> dict[str, float]:
    """What a scrape reads, by the values of a label."""
    (found,) = (found for found in REGISTRY.collect() if found.name == metric)
    return {sample.labels[label]: sample.value for sample in found.samples}


def queue() -> list[float | None]:
    """How long the queue is, and of how many groups."""
    return [REGISTRY.get_sample_value(f"coxswain_queue_{what}") for what in ("depth", "groups")]


async def test_what_waits_and_runs_and_who_is_there_are_metrics(orchestrator: Orchestrator) -> None:
    await orchestrator.waiting_work.count()
    nothing = dict.fromkeys(
        ("QUEUED", "RUNNING", "WAITING_FOR_ANSWER", "WAITING_FOR_CREDENTIAL", "WAITING_FOR_MODEL"), 0.0
    )
    assert counted("coxswain_executions", "state") == nothing
    assert queue() == [0, 0]
    made = [await orchestrator.start() for _ in range(6)]
    states = [ExecutionState.RUNNING, ExecutionState.RUNNING, ExecutionState.WAITING_FOR_CREDENTIAL]
    async with orchestrator.database.write() as connection:
        for execution, state in zip(made, states, strict=False):
            taken = {"state": state, "ready": False, "created_at": utc_now() - timedelta(days=1)}
            await connection.execute(update(executions).where(executions.c.id == execution.id).values(taken))
        waits = {"created_at": utc_now() - timedelta(seconds=900)}
        await connection.execute(update(executions).where(executions.c.id == made[3].id).values(waits))
        other = {"group_id": "legal", "state": ExecutionState.RUNNING, "ready": True}
        await connection.execute(update(executions).where(executions.c.id == made[1].id).values(other))
    await orchestrator.executions.cancel(ALICE, made[-1].id)
    await orchestrator.waiting_work.count()
    assert counted("coxswain_executions", "state") == nothing | {
        "QUEUED": 2,
        "RUNNING": 2,
        "WAITING_FOR_CREDENTIAL": 1,
    }
    assert queue() == [3, 2], "two that no host has begun, and one whose host has died"
    assert 900 <= (REGISTRY.get_sample_value("coxswain_queue_oldest_seconds") or 0) < 3600
    assert REGISTRY.get_sample_value("coxswain_worker_hosts") == 0
    # Nobody knows since when those are ready that waited for an answer, or for their turn.
    undo: dict[str, object] = {"started_at": None, "concurrency_key": "", "overlap_policy": OverlapPolicy.ALLOW}
    turn: dict[str, object] = {"concurrency_key": "k", "overlap_policy": OverlapPolicy.QUEUE}
    for changes in ({"started_at": utc_now()}, turn):
        async with orchestrator.database.write() as connection:
            await connection.execute(update(executions).where(executions.c.id == made[3].id).values(undo | changes))
        await orchestrator.waiting_work.count()
        assert (REGISTRY.get_sample_value("coxswain_queue_oldest_seconds") or 0) < 900
    async with orchestrator.database.write() as connection:
        await connection.execute(update(executions).values(state=ExecutionState.SUCCEEDED, ready=False))
    lease = LeaseConnection(orchestrator.database.url, orchestrator.database.schema, "host-1", 600)
    await asyncio.to_thread(lease.renew)
    try:
        await orchestrator.waiting_work.count()
    finally:
        await asyncio.to_thread(lease.close)
    assert counted("coxswain_executions", "state") == nothing
    assert queue() == [0, 0]
    assert REGISTRY.get_sample_value("coxswain_queue_oldest_seconds") == 0
    assert REGISTRY.get_sample_value("coxswain_worker_hosts") == 1


async def test_however_many_wait_too_long_all_are_ended_at_once(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_BATCH", 2)
    for _ in range(5):
        await orchestrator.start()
    async with orchestrator.database.write() as connection:
        await connection.execute(update(executions).values(deadline_at=utc_now() - timedelta(seconds=1)))
    await orchestrator.housekeeping.once()
    assert {row.state for row in await orchestrator.rows()} == {ExecutionState.FAILED}


async def test_a_request_is_remembered_for_its_time_and_not_longer(orchestrator: Orchestrator) -> None:
    made = {name: (await orchestrator.start(name)).id for name in ("old", "recent", "new")}
    for name, seconds in (("old", 3601), ("recent", 3500)):
        async with orchestrator.database.write() as connection:
            await connection.execute(
                update(requests)
                .where(requests.c.request_id == name)
                .values(created_at=utc_now() - timedelta(seconds=seconds))
            )
    assert (await orchestrator.start("old")).id == made["old"]
    await forget_requests(orchestrator.database, requests, utc_now() - timedelta(seconds=3600))
    assert (await orchestrator.start("recent")).id == made["recent"]
    assert (await orchestrator.start("new")).id == made["new"]
    again = await orchestrator.start("old")
    assert again.id != made["old"]
    assert {row.id for row in await orchestrator.rows()} == {*made.values(), again.id}, "executions stay"


async def test_however_many_old_requests_there_are_all_are_forgotten(orchestrator: Orchestrator) -> None:
    now = utc_now()
    async with orchestrator.database.write() as connection:
        key = {"group_id": "sales", "subject": "s", "method": "m", "request_hash": "h", "resource_id": "r"}
        rows = [key | {"request_id": str(n), "created_at": now - timedelta(seconds=3600 + n)} for n in range(1, 1202)]
        await connection.execute(requests.insert(), rows)

    async def left() -> list[int]:
        async with orchestrator.database.read() as connection:
            return sorted(int(name) for name in await connection.scalars(select(requests.c.request_id)))

    await forget_requests(orchestrator.database, requests, utc_now() - timedelta(seconds=3600))
    assert await left() == []
    await forget_requests(orchestrator.database, requests, utc_now() - timedelta(seconds=3600))
