"""The limit on records of a group: who is let in, who waits, and what becomes of room."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.errors import ResourceExhausted
from services.memory.usecases import record_quota
from services.memory.usecases.record_quota import RecordQuota


class _Store:
    """A store that only counts; a test lets it answer by `answers`."""

    backend_id = None

    def __init__(self, records: int) -> None:
        self.records = records
        self.counts = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def namespaces(self, *_: Any) -> list[Any]:
        self.counts += 1
        counted = self.records
        await self.answers.wait()
        return [SimpleNamespace(record_count=counted)]


class _Saves:
    """Saves of one group at one quota; each stores what it holds when it is let go on."""

    def __init__(self, store: _Store, limit: int) -> None:
        self.store = store
        self.quota = RecordQuota()
        self.principal: Any = SimpleNamespace(group_id="sales", limits=SimpleNamespace(max_records=limit))
        self.entered: list[str] = []

    async def save(
        self,
        name: str,
        records: int,
        go_on: asyncio.Event,
        replaced: Callable[[], Awaitable[int]] | None = None,
        *,
        failing: bool = False,
    ) -> None:
        async def nothing() -> int:
            return 0

        store: Any = self.store
        async with self.quota.room_for(self.principal, store, records, replaced or nothing):
            self.entered.append(name)
            await go_on.wait()
            if failing:
                raise OSError(name)
            self.store.records += records - (await replaced() if replaced else 0)


async def _settled() -> None:
    """Let every task go as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


def _now() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_a_save_that_comes_to_nothing_gives_its_room_back(ending: str) -> None:
    saves, go_on = _Saves(_Store(0), 10), asyncio.Event()
    first = asyncio.create_task(saves.save("first", 6, go_on, failing=True))
    await _settled()
    second = asyncio.create_task(saves.save("second", 6, _now()))
    await _settled()
    assert saves.entered == ["first"]
    if ending == "cancelled":
        first.cancel()
    else:
        go_on.set()
    await second
    assert saves.store.records == 6
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], OSError | asyncio.CancelledError)
    assert not saves.quota._groups


async def test_what_is_refused_or_gives_up_waiting_takes_no_room() -> None:
    saves, go_on = _Saves(_Store(4), 10), asyncio.Event()
    with pytest.raises(ResourceExhausted) as refused:
        await saves.save("too many", 7, _now())
    assert refused.value.reason == "QUOTA_EXCEEDED"
    first = asyncio.create_task(saves.save("first", 5, go_on))
    await _settled()
    waiting = [asyncio.create_task(saves.save(f"waiting {number}", 2, _now())) for number in range(2)]
    await _settled()
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert saves.entered == ["first"]
    await saves.save("last", 1, _now())
    go_on.set()
    await first
    assert saves.store.records == 10
    assert not saves.quota._groups


async def test_a_save_that_waited_for_the_records_it_replaces_is_let_in() -> None:
    saves, go_on = _Saves(_Store(0), 5), asyncio.Event()

    async def replaced() -> int:
        return min(5, saves.store.records)

    first = asyncio.create_task(saves.save("first", 5, go_on))
    await _settled()
    second = asyncio.create_task(saves.save("second", 5, _now(), replaced))
    await _settled()
    assert saves.entered == ["first"]
    go_on.set()
    await asyncio.gather(first, second)
    assert saves.store.records == 5


async def test_a_document_that_gets_shorter_gives_no_room_before_it_is_stored() -> None:
    saves, go_on = _Saves(_Store(10), 10), asyncio.Event()

    async def replaced() -> int:
        return 8

    shorter = asyncio.create_task(saves.save("shorter", 2, go_on, replaced))
    await _settled()
    assert saves.entered == ["shorter"]
    with pytest.raises(ResourceExhausted):
        await saves.save("other", 6, _now())
    go_on.set()
    await shorter
    await saves.save("other", 6, _now())
    assert saves.store.records == 10


async def test_saves_that_wait_share_counts_and_none_passes_the_limit() -> None:
    store = _Store(0)
    saves = _Saves(store, 40)
    store.answers.clear()
    tasks = [asyncio.create_task(saves.save(f"{number}", 1, _now())) for number in range(100)]
    await _settled()
    store.answers.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert (outcomes.count(None), store.records) == (40, 40)
    assert {each.reason for each in outcomes if isinstance(each, ResourceExhausted)} == {"QUOTA_EXCEEDED"}
    # One for those that are let in, and one or two until these have saved and all others are refused.
    assert store.counts <= 4


async def test_waiting_ends_with_a_refusal_that_says_when_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_quota, "_MOST_SECONDS", 0.0)
    saves, go_on = _Saves(_Store(5), 10), asyncio.Event()
    first = asyncio.create_task(saves.save("first", 5, go_on))
    await _settled()
    with pytest.raises(ResourceExhausted) as refused:
        await saves.save("second", 5, _now())
    assert (refused.value.reason, refused.value.retry_after) == ("OVERLOADED", 1.0)

    async def replaced() -> int:
        return 5

    saves.store.answers.clear()
    counting = asyncio.create_task(saves.save("counting", 5, _now()))
    await _settled()
    with pytest.raises(ResourceExhausted) as refused:
        await saves.save("behind it", 5, _now())
    assert refused.value.reason == "OVERLOADED"
    # What only replaces needs no room.
    await saves.save("replacing", 5, _now(), replaced)
    assert saves.entered == ["first", "replacing"]
    counting.cancel()
    go_on.set()
    await asyncio.gather(first, counting, return_exceptions=True)
    assert saves.store.records == 10
    assert not saves.quota._groups
