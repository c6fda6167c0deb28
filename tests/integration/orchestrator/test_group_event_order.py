"""Events of a group are read in the order of commits, however transactions overlap."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.group_event import EventFilter, Position
from services.orchestrator.domain.webhook import Delivery, DeliveryState, Webhook, WebhookPlan
from services.orchestrator.events import new_event
from services.orchestrator.repositories.group_events import GroupEventReader, GroupEventRepository, adopt_events
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.tables import group_events
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.service_tables import make_service_tables

GROUP = "sales"


async def append(connection: AsyncConnection, execution_id: str, number: int) -> None:
    event = new_event(pb.TaskStarted(agent_role=str(number)))
    await GroupEventRepository(connection).append(GROUP, execution_id, [(number, event)])


async def read_on(reader: GroupEventReader, position: Position, seen: list[int]) -> Position:
    """Add the numbers of what there is to read, and return the new position."""
    while events := (await reader.after(GROUP, position, 3)).events:
        seen += [event.event.sequence for event in events]
        position = events[-1].position
    return position


class Writer:
    """A transaction that stays open between its steps."""

    def __init__(self, database: Database, execution_id: str) -> None:
        self._database = database
        self._execution_id = execution_id
        self._stack = AsyncExitStack()
        self._connection: AsyncConnection | None = None

    async def write(self, number: int) -> None:
        if self._connection is None:
            self._connection = await self._stack.enter_async_context(self._database.write())
        await append(self._connection, self._execution_id, number)

    async def commit(self) -> None:
        self._connection = None
        await self._stack.aclose()


async def overlap(url: str, execution_id: str, steps: list[tuple[int, bool]]) -> None:
    database = Database(url, "orchestrator", null_pool=True)
    reader = GroupEventReader(database)
    position, seen = await reader.settled(), list[int]()
    writers = [Writer(database, execution_id) for _ in range(4)]
    written = 0
    for writer, commits in steps:
        if commits:
            await writers[writer].commit()
        else:
            written += 1
            await writers[writer].write(written)
        position = await read_on(reader, position, seen)
    for open_one in writers:
        await open_one.commit()
    position = await read_on(reader, position, seen)
    assert sorted(seen) == list(range(1, written + 1)), "each once"
    assert (await reader.settled()) >= position
    async with database.write() as connection:
        await connection.execute(delete(group_events))
    await database.close()


def test_transactions_that_overlap_lose_nothing_and_repeat_nothing(postgres_url: str) -> None:
    async def prepare() -> str:
        make_service_tables("orchestrator", postgres_url)
        database = Database(postgres_url, "orchestrator", null_pool=True)
        orchestrator = Orchestrator(database)
        await orchestrator.prepare()
        return (await orchestrator.start()).id

    execution_id = asyncio.run(prepare())

    @settings(max_examples=20)
    @given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20))
    def check(steps: list[tuple[int, bool]]) -> None:
        asyncio.run(overlap(postgres_url, execution_id, steps))

    check()


async def test_what_is_held_back_is_told_and_read_when_the_older_transaction_has_ended(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    database = Database(postgres_url, "orchestrator")
    orchestrator = Orchestrator(database)
    await orchestrator.prepare()
    execution_id = (await orchestrator.start()).id
    reader = GroupEventReader(database)
    position = await reader.settled()
    async with database.write() as older:
        await append(older, execution_id, 1)
        async with database.write() as newer:
            await append(newer, execution_id, 2)
        read = await reader.after(GROUP, position, 10)
        assert (read.events, read.held_back) == ([], True)
        assert await reader.settled() == position
    read = await reader.after(GROUP, position, 10)
    assert ([event.event.sequence for event in read.events], read.held_back) == ([1, 2], False)
    # Restored on another server, whose transactions have smaller numbers.
    async with database.write() as connection:
        await connection.execute(update(group_events).values(transaction_id=2**40))
    assert (await reader.after(GROUP, position, 10)).held_back
    await adopt_events(database)
    read = await reader.after(GROUP, Position(0, 0), 10)
    assert ([event.event.sequence for event in read.events], read.held_back) == ([1, 1, 2], False)
    await database.close()


async def test_webhooks_of_a_restored_database_lose_nothing_and_repeat_no_delivery(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    database = Database(postgres_url, "orchestrator")
    orchestrator = Orchestrator(database)
    await orchestrator.prepare()
    execution_id = (await orchestrator.start()).id
    old, now = 2**40, utc_now()
    ids: dict[int, int] = {}
    async with database.write() as connection:
        await connection.execute(delete(group_events))
        # The first is of a time when the numbers of the old server were as small as those of the new one.
        for number, transaction_id in ((1, 5), (2, old), (3, old + 1), (4, old + 2)):
            await append(connection, execution_id, number)
            stored = group_events.c.sequence == number
            await connection.execute(update(group_events).where(stored).values(transaction_id=transaction_id))
            ids[number] = (await connection.execute(select(group_events.c.id).where(stored))).scalar_one()
        for name, position in {
            "in order": Position(old, ids[2]),
            "new": Position(old, 2**63 - 1),
            "long behind": Position(5, ids[1]),
            "at the end": Position(old + 2, ids[4]),
            "ahead": Position(old + 9, 2**63 - 1),
        }.items():
            plan = WebhookPlan("https://example.com/", "", EventFilter(), paused=False)
            await WebhookRepository(connection).insert(
                Webhook(name, GROUP, plan, b"key", position, "dev|alice", 1, now, now)
            )
        sending = await WebhookRepository(connection).claim("in order", "one process", now, now + timedelta(hours=1))
        assert sending is not None
    await adopt_events(database)
    async with database.write() as connection:
        await append(connection, execution_id, 5)
    reader, found = GroupEventReader(database), dict[str, list[int]]()
    async with database.write() as connection:
        repository = WebhookRepository(connection)
        for webhook in await repository.page(GROUP, "", None, 10):
            await read_on(reader, webhook.position, found.setdefault(webhook.id, []))
        # It has read on from where it was.
        assert not await repository.advance("in order", "one process", Position(old + 2, ids[4]))
        pending = delivery_of(execution_id, "first", now)
        await repository.add([pending])
        await repository.add([replace(pending, id="again")])
        of_schedule = replace(pending, id="of a schedule", execution_id="", sequence=0, event_id=ids[4])
        for delivery in (of_schedule, replace(of_schedule, event_id=ids[3])):
            await repository.add([replace(delivery, id=f"{delivery.id} {delivery.event_id}")])
            await repository.add([replace(delivery, id="again")])
        kept = await repository.deliveries("new", None, "", None, 10)
    assert found == {
        "in order": [3, 4, 1, 5],
        "new": [3, 4, 1, 5],
        "long behind": [2, 3, 4, 1, 5],
        "at the end": [1, 5],
        "ahead": [1, 5],
    }
    assert {each.id for each in kept} == {"first", f"of a schedule {ids[3]}", f"of a schedule {ids[4]}"}
    await database.close()


def delivery_of(execution_id: str, delivery_id: str, now: datetime) -> Delivery:
    state, kind = DeliveryState.PENDING, "task_started"
    return Delivery(delivery_id, "new", execution_id, 1, kind, state, 0, 0, "", b"{}", now, None, now, None)


async def test_positions_never_go_back_although_rows_go(orchestrator: Orchestrator) -> None:
    execution = await orchestrator.start()
    reader = GroupEventReader(orchestrator.database)
    before = await reader.settled()
    async with orchestrator.database.write() as connection:
        await connection.execute(delete(group_events))
    position = await reader.settled()
    assert position >= before
    async with orchestrator.database.write() as connection:
        await append(connection, execution.id, 7)
    assert [event.event.sequence for event in (await reader.after(GROUP, position, 10)).events] == [7]
    assert (await reader.after("other", Position(0, 0), 10)).events == []
