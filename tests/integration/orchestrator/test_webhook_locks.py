"""Transactions that post events, store configs, answer and delete lock rows in one order: none ends in a deadlock."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before
from services.common.ids import new_id
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.group_event import EventFilter
from services.orchestrator.domain.webhook import NOWHERE, Binding, PayloadForm, Webhook, WebhookPlan
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.retention import RetentionRepository
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.tables import executions, webhook_deliveries, webhooks
from services.orchestrator.usecases.webhook_intake import ClaimLost, WebhookIntake
from services.orchestrator.usecases.webhook_sources import Found, new_delivery
from tests.integration.orchestrator.a2a_support import agent, ask, publish, send, sending, state
from tests.integration.orchestrator.support import Worker
from tests.integration.orchestrator.test_a2a_push import configuration, wanted
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import Harness

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


async def blocked(database: Database, count: int) -> None:
    """Wait until so many transactions wait for locks of others."""
    here = text("datname = current_database() AND wait_event_type = 'Lock'")
    waiting = select(func.count().label("count")).select_from(text("pg_stat_activity")).where(here)
    async with asyncio.timeout(60):
        while (await database.fetch(waiting))[0]["count"] < count:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)


async def ended_with_webhook(orchestrator: Orchestrator) -> tuple[str, Webhook]:
    """Store an execution that has ended, and its webhook, which `sender` has claimed, with two deliveries."""
    execution_id = (await orchestrator.start()).id
    now = utc_now()
    plan = WebhookPlan("https://example.com/", "", EventFilter(), paused=False)
    bound = Binding(sequence=0, execution_id=execution_id)
    webhook = Webhook(new_id(), "sales", plan, b"key", NOWHERE, "dev|alice", 1, now, now, bound=bound)
    async with orchestrator.database.write() as connection:
        await connection.execute(executions.update().values(state=ExecutionState.SUCCEEDED, ended_at=now))
        stored = WebhookRepository(connection)
        await stored.insert(webhook)
        await stored.claim(webhook.id, "sender", now, now)
        await stored.add([made(webhook, execution_id, sequence) for sequence in (1, 2)])
    return execution_id, webhook


def made(webhook: Webhook, execution_id: str, sequence: int) -> Any:
    return new_delivery(new_id(), webhook, execution_id, sequence, "execution_queued", b"{}")


async def delete(database: Database, execution_id: str) -> int:
    async with database.write() as connection:
        return await RetentionRepository(connection).delete("sales", [execution_id])


async def test_an_execution_is_deleted_beside_who_records_an_attempt(orchestrator: Orchestrator) -> None:
    execution_id, webhook = await ended_with_webhook(orchestrator)
    database = orchestrator.database
    async with database.write() as connection:
        sending_now = WebhookRepository(connection)
        assert await sending_now.release(webhook.id, "sender") is not None
        deleting = asyncio.create_task(delete(database, execution_id))
        await blocked(database, 1)
        [delivery] = await sending_now.due(webhook.id, utc_now(), 1)
        await sending_now.save_delivery(delivery)
    assert await deleting == 1
    assert not await database.fetch(webhook_deliveries.select())


async def test_old_deliveries_are_deleted_without_waiting_for_one_that_is_held(orchestrator: Orchestrator) -> None:
    await ended_with_webhook(orchestrator)
    database, ended_at = orchestrator.database, webhook_deliveries.c.ended_at
    later = utc_now() + timedelta(days=1)
    async with database.write() as connection:
        await connection.execute(webhook_deliveries.update().values(ended_at=utc_now()))
    async with database.write() as connection:
        await connection.execute(
            webhook_deliveries.select().where(webhook_deliveries.c.sequence == 1).with_for_update()
        )
        async with asyncio.timeout(60):
            assert await remove_before(database, ended_at, later) == 1
    assert await remove_before(database, ended_at, later) == 1
    assert not await database.fetch(webhook_deliveries.select())


async def test_an_execution_is_deleted_beside_who_takes_its_events(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id, webhook = await ended_with_webhook(orchestrator)
    database, standing = orchestrator.database, WebhookRepository.standing
    deleting: list[asyncio.Task[int]] = []

    async def late(self: WebhookRepository, execution_ids: Any) -> set[str]:
        deleting.append(asyncio.create_task(delete(database, execution_id)))
        held = asyncio.create_task(blocked(database, 1))
        await asyncio.wait([deleting[0], held], return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        return await standing(self, execution_ids)

    class Source:
        async def after(self, _webhook: Webhook, _limit: int) -> Found:
            return Found(3, [made(webhook, execution_id, 3)])

    monkeypatch.setattr(WebhookRepository, "standing", late)
    with pytest.raises(ClaimLost):
        await WebhookIntake(database, Source(), {PayloadForm.NOTIFICATION: Source()}, "sender").take(webhook)
    assert await deleting[0] == 1


async def test_a_config_is_stored_beside_an_answer_that_brings_the_same_one(harness: Harness, worker: Worker) -> None:
    await publish(harness)
    stub, url = agent(harness), "https://example.com/"
    task = await send(stub)
    await worker.claim(task.id)
    await ask(worker, task.id)
    async with worker.database.write() as connection:
        await ExecutionRepository(connection).lock(task.id)
        creating = stub.CreateTaskPushNotificationConfig(wanted(url, task_id=task.id, id="same"))
        await blocked(worker.database, 1)
        answer = sending("yes", task_id=task.id, data=None, configuration=configuration(url, id="same"))
        answering = stub.SendMessage(answer)
        await blocked(worker.database, 2)
        # What changes its state changes the row of its task as well.
        await connection.execute(executions.update().values(state=ExecutionState.RUNNING))
        await connection.execute(executions.update().values(state=ExecutionState.WAITING_FOR_ANSWER))
    assert (await creating).id == "same"
    assert state((await answering).task) == "WORKING"
    assert len(await worker.database.fetch(webhooks.select())) == 1


async def test_a_pause_beside_who_stores_the_config_again_is_kept(harness: Harness, worker: Worker) -> None:
    await publish(harness)
    stub = agent(harness)
    task = await send(stub)
    config = wanted("https://example.com/", task_id=task.id, id="same")
    await stub.CreateTaskPushNotificationConfig(config)
    [stored] = await worker.database.fetch(webhooks.select())
    async with worker.database.write() as connection:
        pausing = WebhookRepository(connection)
        assert await pausing.pause_bound(stored["subject"], "sales", utc_now(), utc_now()) == 1
        creating = stub.CreateTaskPushNotificationConfig(config)
        await blocked(worker.database, 1)
    await creating
    [kept] = await worker.database.fetch(webhooks.select())
    assert (kept["held"], kept["revision"]) == (True, 3)
