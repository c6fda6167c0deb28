"""What is done, and told, although nobody asks for it."""

from datetime import timedelta

from prometheus_client import REGISTRY
from sqlalchemy import select, update

from services.common.clock import utc_now
from services.common.db.idempotency import forget_requests
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.tables import executions, requests
from tests.integration.orchestrator.use_cases import ALICE, Orchestrator


def counted() -> dict[str, float]:
    """What a scrape reads."""
    (metric,) = (found for found in REGISTRY.collect() if found.name == "coxswain_executions")
    return {sample.labels["state"]: sample.value for sample in metric.samples}


async def test_the_length_of_the_queue_and_what_runs_and_waits_are_metrics(orchestrator: Orchestrator) -> None:
    await orchestrator.housekeeping.once()
    nothing = dict.fromkeys(
        ("QUEUED", "RUNNING", "WAITING_FOR_ANSWER", "WAITING_FOR_CREDENTIAL", "WAITING_FOR_MODEL"), 0.0
    )
    assert counted() == nothing
    made = [await orchestrator.start() for _ in range(6)]
    states = [ExecutionState.RUNNING, ExecutionState.RUNNING, ExecutionState.WAITING_FOR_CREDENTIAL]
    async with orchestrator.database.write() as connection:
        for execution, state in zip(made, states, strict=False):
            await connection.execute(update(executions).where(executions.c.id == execution.id).values(state=state))
    await orchestrator.executions.cancel(ALICE, made[-1].id)
    await orchestrator.housekeeping.once()
    assert counted() == nothing | {"QUEUED": 2, "RUNNING": 2, "WAITING_FOR_CREDENTIAL": 1}
    async with orchestrator.database.write() as connection:
        await connection.execute(update(executions).values(state=ExecutionState.SUCCEEDED))
    await orchestrator.housekeeping.once()
    assert counted() == nothing


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
