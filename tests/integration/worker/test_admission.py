"""Which host takes which execution: each once, the lines of groups side by side, and back when a host lets it go."""

import asyncio
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.admission import Room, room_of
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.tables import crew_revisions
from services.orchestrator.worker.host.run_store import Claim, RunStore
from tests.integration.worker.rows import ROOM, execution_row, queue, waiting

S = ExecutionState
_BEGAN = datetime(2024, 5, 1, tzinfo=UTC)


async def start(database: Database, group: str, count: int = 1, priority: int = 0, at: float = 0) -> list[str]:
    """Let executions of a group wait, `at` seconds after the first ones."""
    return [
        await queue(
            database, group_id=group, priority=priority, created_at=_BEGAN + timedelta(seconds=at, milliseconds=number)
        )
        for number in range(count)
    ]


def ids(claims: list[Claim]) -> list[str]:
    return sorted(claim.execution.id for claim in claims)


async def test_nothing_is_taken_that_rests_has_ended_or_runs(database: Database, store: RunStore) -> None:
    for state in set(S) - {S.QUEUED, S.RUNNING}:
        await queue(database, state=state, ready=False)
    await queue(database, state=S.RUNNING, ready=False)
    assert not await store.any_waiting(ROOM)
    assert await store.take("a", ROOM) == []
    (only,) = await start(database, "g")
    assert await store.any_waiting(ROOM)
    (claim,) = await store.take("a", ROOM)
    assert (claim.execution.id, claim.execution.state, claim.execution.epoch) == (only, S.RUNNING, 1)
    assert (await execution_row(database, only)).executor_id == "a"
    assert await store.take("b", ROOM) == []


async def test_a_host_with_reserved_slots_alone_looks_for_groups_that_have_nothing_running(
    database: Database, store: RunStore
) -> None:
    reserved = Room(0, 1, None)
    assert not await store.any_waiting(reserved)
    assert await store.first_in_line() is None
    _, second = await start(database, "g", 2)
    assert await store.any_waiting(reserved)
    assert len(await store.take("a", reserved)) == 1
    assert (await store.any_waiting(ROOM), await store.any_waiting(reserved)) == (True, False)
    assert await store.first_in_line() == second
    (other,) = await start(database, "h")
    assert await store.any_waiting(reserved)
    # However much of one group waits for a limit, it does not hide what may be taken.
    assert await store.first_in_line() == other
    assert await store.waiting_or_due() == (True, False)


async def test_a_host_knows_the_slots_of_the_others_until_they_end(database: Database, store: RunStore) -> None:
    assert await store.slots_beside("a") == 0
    for host, slots in (("a", 4), ("b", 8), ("c", 16), ("c", 32)):
        await store.can_run(host, slots, 1, None)
    assert (await store.slots_beside("a"), await store.slots_beside("c")) == (40, 12)
    await store.hand_over("b")
    await store.take_over(["c"])
    assert await store.slots_beside("a") == 0


async def test_what_this_release_cannot_read_keeps_nobody_waiting(database: Database, store: RunStore) -> None:
    (unknown, known) = await start(database, "g", 2)
    crew_id = (await execution_row(database, unknown)).crew_id
    async with database.write() as connection:
        change = update(crew_revisions).where(crew_revisions.c.crew_id == crew_id)
        await connection.execute(change.values(document={"name": "c", "process": "OF_A_NEWER_RELEASE"}))
    assert ids(await store.take("a", Room(1, 0, None))) == [known]
    assert await store.take("a", ROOM) == []
    row = await execution_row(database, unknown)
    assert (row.ready, row.epoch, row.last_sequence) == (True, 0, 0)


async def test_hosts_that_take_at_once_share_what_waits(database: Database, store: RunStore) -> None:
    waiting_ids = await start(database, "g", 6) + await start(database, "h", 6)
    hosts = [f"host {number}" for number in range(4)]
    taken = await asyncio.gather(*(store.take(host, Room(4, 1, 5)) for host in hosts))
    everything = [claim.execution.id for claims in taken for claim in claims]
    assert len(everything) == len(set(everything)) == 10
    groups = [claim.execution.group_id for claims in taken for claim in claims]
    assert (groups.count("g"), groups.count("h")) == (5, 5)
    assert await waiting(database) == set(waiting_ids) - set(everything)


async def test_a_group_that_fills_every_slot_keeps_no_other_waiting(database: Database, store: RunStore) -> None:
    await start(database, "default", 12)
    for host in ("a", "b"):
        assert len(await store.take(host, room_of(0, 4, 1, None))) == 4
        # The slots are full; what is reserved is not for a group that has something running.
        assert await store.take(host, room_of(4, 4, 1, None)) == []
    sales = await start(database, "sales", 3, at=60)
    (claim,) = await store.take("a", room_of(4, 4, 1, None))
    assert claim.execution.id == sales[0]
    assert await store.take("a", room_of(5, 4, 1, None)) == []
    # Sales runs one now, and waits like everybody for the next.
    assert await store.take("b", room_of(4, 4, 1, None)) == []
    support = await start(database, "support", at=60)
    assert ids(await store.take("b", room_of(4, 4, 1, None))) == support


async def test_slots_go_to_the_group_that_runs_least(database: Database, store: RunStore) -> None:
    busy = await start(database, "busy", 6)
    assert ids(await store.take("a", Room(2, 0, None))) == sorted(busy[:2])
    late, later = await start(database, "late", 3, at=60), await start(database, "later", 3, at=120)
    taken = await store.take("a", Room(5, 0, None))
    assert ids(taken) == sorted([*late[:2], *later[:2], busy[2]])


async def test_within_a_group_the_urgent_go_first_then_the_oldest(database: Database, store: RunStore) -> None:
    old, new = await start(database, "g", 2, priority=5)
    (urgent,) = await start(database, "g", priority=1, at=60)
    order = [ids(await store.take("a", Room(1, 0, None))) for _ in range(3)]
    assert order == [[urgent], [old], [new]]


async def test_what_a_lost_host_had_is_taken_over_and_nobody_elses(database: Database, store: RunStore) -> None:
    first, second = await start(database, "g", 2)
    await store.take("dies", Room(1, 0, None))
    await store.take("lives", Room(1, 0, None))
    assert await store.holders() == {"dies", "lives"}
    assert await store.give_back_from(["nobody"]) == []
    assert await store.give_back_from(["dies"]) == [first]
    # Twice, as several hosts would.
    assert await store.give_back_from(["dies"]) == []
    # Until it is taken again it occupies nothing.
    (claim,) = await store.take("lives", Room(1, 0, 2))
    assert (claim.execution.id, claim.execution.epoch) == (first, 2)
    assert (await execution_row(database, second)).epoch == 1
    assert await store.holders() == {"lives"}


async def test_a_host_gives_back_what_it_does_not_run(database: Database, store: RunStore) -> None:
    first, second = await start(database, "g", 2)
    await store.take("a", ROOM)
    assert await store.give_back_from(["a"], [second]) == [first]
    assert await waiting(database) == {first}


async def test_only_the_newest_claim_gives_an_execution_back(database: Database, store: RunStore) -> None:
    (only,) = await start(database, "g")
    for epoch in (1, 2):
        await store.take("a", ROOM)
        assert not await store.give_back(only, epoch - 1)
        assert await store.give_back(only, epoch)
        assert not await store.give_back(only, epoch)
    assert not await store.give_back(new_id(), 1)
