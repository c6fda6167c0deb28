"""Watching: every event once and in order, whatever is lost, pruned, slow or late."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import Unavailable
from services.orchestrator.domain.event import CHUNK, StoredEvent
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.repositories.events import EventReader
from services.orchestrator.usecases.event_feed import EventFeed
from tests.support.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = 3600.0


class Rows:
    """The rows of executions, and how often they were read."""

    def __init__(self) -> None:
        self.events: dict[str, list[StoredEvent]] = {}
        self.last: dict[str, int] = {}
        self.reads = 0
        self.failing: Exception | None = None
        self.held: asyncio.Event | None = None
        """While it is not set, reads that have seen the rows do not come back."""

    def append(self, execution_id: str, *kinds: str) -> int:
        for kind in kinds:
            self.last[execution_id] = self.last.get(execution_id, 0) + 1
            event = StoredEvent(self.last[execution_id], NOW, kind, b"x" * 50, None, "", 0)
            self.events.setdefault(execution_id, []).append(event)
        return self.last[execution_id]

    def prune(self, execution_id: str) -> None:
        self.events[execution_id] = [event for event in self.events[execution_id] if event.kind != CHUNK]

    # What the feed asks of an EventReader.

    async def after(self, execution_id: str, sequence: int, limit: int, *, chunks: bool = True) -> list[StoredEvent]:
        self.reads += 1
        if self.failing is not None:
            raise self.failing
        found = [event for event in self.events.get(execution_id, []) if event.sequence > sequence]
        await asyncio.sleep(0)
        if self.held is not None:
            await self.held.wait()
        return [event for event in found if chunks or event.kind != CHUNK][:limit]

    async def newest(self, execution_ids: Collection[str]) -> dict[str, int]:
        self.reads += 1
        await asyncio.sleep(0)
        return {execution_id: self.last[execution_id] for execution_id in execution_ids}


@contextlib.asynccontextmanager
async def serving(
    rows: Rows, bus: LocalHintBus, *, safety: float = NEVER, tail: int = 1_000_000
) -> AsyncIterator[EventFeed]:
    feed = EventFeed(cast("EventReader", rows), bus, safety_read_seconds=safety, tail_bytes=tail)
    await feed.start()
    await asyncio.sleep(0)
    try:
        yield feed
    finally:
        await feed.close()


class Watcher:
    """Somebody who watches, and what they have seen."""

    def __init__(self, feed: EventFeed, rows: Rows, execution_id: str, after: int, *, chunks: bool = True) -> None:
        self.seen: list[StoredEvent] = []
        self.after = after
        self.chunks = chunks
        self.failure: Exception | None = None
        newest = rows.last.get(execution_id, 0)
        self.task = asyncio.create_task(self._watch(feed.follow(execution_id, after, newest, chunks=chunks)))

    async def _watch(self, events: AsyncIterator[list[StoredEvent]]) -> None:
        try:
            async for batch in events:
                self.seen += batch
        except Unavailable as error:
            self.failure = error

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.seen]


async def at_rest(feed: EventFeed, watcher: Watcher, seen: list[int]) -> None:
    """Wait until a watcher has seen this much and nobody reads."""
    await until(lambda: watcher.sequences == seen and not any(topic.reading for topic in feed._topics.topics.values()))


def hint(execution_id: str, sequence: int) -> Hint:
    return Hint(HintKind.EVENTS_STORED, execution_id, sequence)


async def test_stored_events_are_replayed_and_new_ones_follow_until_the_last() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued", "execution_started")
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await until(lambda: watcher.sequences == [1, 2])
        bus.publish(hint("e", rows.append("e", "task_started")))
        await until(lambda: watcher.sequences == [1, 2, 3])
        bus.publish(hint("e", rows.append("e", "execution_succeeded")))
        await watcher.task
        assert watcher.sequences == [1, 2, 3, 4]


async def test_watching_again_from_the_last_sequence_goes_on_without_a_gap() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", *["task_started"] * 3, "execution_failed")
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 2)
        await watcher.task
        assert watcher.sequences == [3, 4]


async def test_one_hint_costs_one_read_however_many_watch() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        watchers = [Watcher(feed, rows, "e", 0) for _ in range(50)]
        await until(lambda: all(watcher.sequences == [1] for watcher in watchers))
        before = rows.reads
        bus.publish(hint("e", rows.append("e", "task_started", "task_completed")))
        await until(lambda: all(watcher.sequences == [1, 2, 3] for watcher in watchers))
        assert rows.reads == before + 1


async def test_who_joins_others_costs_no_read_and_finds_what_a_lost_hint_was_about() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        first = Watcher(feed, rows, "e", 0)
        await at_rest(feed, first, [1])
        before = rows.reads
        second = Watcher(feed, rows, "e", 0)
        await at_rest(feed, second, [1])
        assert rows.reads == before
        rows.append("e", "task_started")
        third = Watcher(feed, rows, "e", 1)
        for watcher, seen in ((first, [1, 2]), (second, [1, 2]), (third, [2])):
            await at_rest(feed, watcher, seen)
        assert rows.reads == before + 1


@pytest.mark.parametrize(("events", "reads"), [(1, 1), (200, 1), (201, 3)])
async def test_the_first_watcher_gets_what_it_missed_by_the_read_for_all(events: int, reads: int) -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", *["task_started"] * events)
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await at_rest(feed, watcher, list(range(1, events + 1)))
        # Of more than one page, each is read beside the tail.
        assert rows.reads == reads


async def test_a_lost_hint_is_made_up_for_by_the_safety_read() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus, safety=0.01) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await at_rest(feed, watcher, [1])
        rows.append("e", "execution_cancelled")
        await watcher.task
        assert watcher.sequences == [1, 2]


async def test_a_bus_that_lost_hints_makes_everything_watched_read_at_once() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await at_rest(feed, watcher, [1])
        rows.append("e", "execution_cancelled")
        bus.publish(Hint(HintKind.RESYNC))
        await watcher.task


async def test_events_stored_before_anybody_listened_are_not_missed() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        # The row said 1; then a worker stored more, and its hint found nobody.
        events = feed.follow("e", 1, 1)
        rows.append("e", "execution_succeeded")
        assert [event.sequence async for batch in events for event in batch] == [2]


async def test_a_hint_that_comes_during_a_read_leads_to_another_one() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await at_rest(feed, watcher, [1])
        rows.held = asyncio.Event()
        before = rows.reads
        bus.publish(hint("e", rows.append("e", "task_started")))
        await until(lambda: rows.reads > before)
        bus.publish(hint("e", rows.append("e", "execution_succeeded")))
        await until(lambda: feed._topics.topics["e"].hinted == 3)
        rows.held.set()
        await watcher.task
        assert watcher.sequences == [1, 2, 3]


@pytest.mark.parametrize("failure", [Unavailable("the database does not answer"), RuntimeError("a mistake of ours")])
async def test_a_database_that_fails_for_a_moment_ends_no_watch(failure: Exception) -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus, safety=0.01) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await until(lambda: watcher.sequences == [1])
        rows.failing = failure
        before = rows.reads
        bus.publish(hint("e", rows.append("e", "execution_succeeded")))
        await until(lambda: rows.reads > before)
        rows.failing = None
        await watcher.task
        assert watcher.sequences == [1, 2]


async def test_who_joins_has_that_read_which_the_last_read_could_not() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        first = Watcher(feed, rows, "e", 0)
        await at_rest(feed, first, [1])
        # Its row was read before the event was stored.
        second = feed.follow("e", 1, rows.last["e"])
        rows.failing, before = Unavailable("the database does not answer"), rows.reads
        bus.publish(hint("e", rows.append("e", "task_started")))
        await until(lambda: rows.reads > before and not feed._topics.topics["e"].reading)
        rows.failing = None
        assert [event.sequence for event in await anext(second)] == [2]
        await second.aclose()


async def test_a_draining_process_ends_watches_so_that_they_can_go_on_elsewhere() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await until(lambda: watcher.sequences == [1])
        feed.drain()
        await watcher.task
        assert isinstance(watcher.failure, Unavailable)
        assert watcher.failure.retry_after is not None
        with pytest.raises(Unavailable):
            await anext(feed.follow("e", 0, 1))


async def test_nothing_is_kept_of_an_execution_nobody_watches() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus) as feed:
        watcher = Watcher(feed, rows, "e", 0)
        await until(lambda: watcher.sequences == [1])
        watcher.task.cancel()
        await until(watcher.task.done)
        before = rows.reads
        bus.publish(hint("e", rows.append("e", "task_started")))
        bus.publish(Hint(HintKind.RESYNC))
        for _ in range(50):
            await asyncio.sleep(0)
        assert rows.reads == before
        assert not feed._topics.topics


async def test_a_slow_watcher_costs_no_more_than_the_tail_and_still_sees_everything() -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus, tail=2000) as feed:
        slow = feed.follow("e", 0, 1)
        seen = [event.sequence for event in await anext(slow)]
        for _ in range(30):
            bus.publish(hint("e", rows.append("e", *[CHUNK] * 20)))
            await until(lambda: feed._topics.topics["e"].last == rows.last["e"])
        bus.publish(hint("e", rows.append("e", "execution_succeeded")))
        kept = sum(len(topic.after(0)) for topic in feed._topics.topics.values())
        assert kept <= 2000 // 50
        seen += [event.sequence async for batch in slow for event in batch]
        assert seen == list(range(1, 603))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.sampled_from([CHUNK, "task_started"]), min_size=1, max_size=300)),
        st.tuples(st.just("prune"), st.none()),
        st.tuples(st.just("hint"), st.none()),
        st.tuples(st.just("watch"), st.tuples(st.floats(0, 1), st.booleans())),
        st.tuples(st.just("pause"), st.integers(1, 6)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, st.sampled_from([500, 5000, 1_000_000]))
async def test_whatever_happens_each_watcher_sees_every_kept_event_once_and_in_order(
    actions: list[tuple[str, Any]], tail: int
) -> None:
    rows, bus = Rows(), LocalHintBus()
    rows.append("e", "execution_queued")
    async with serving(rows, bus, safety=0.005, tail=tail) as feed:
        watchers = []
        for action, detail in actions:
            if action == "append":
                rows.append("e", *detail)
            elif action == "prune":
                rows.prune("e")
            elif action == "hint":
                bus.publish(hint("e", rows.last["e"]))
            elif action == "watch":
                where, chunks = detail
                watchers.append(Watcher(feed, rows, "e", int(rows.last["e"] * where), chunks=chunks))
            else:
                for _ in range(detail):
                    await asyncio.sleep(0)
        rows.append("e", "execution_succeeded")
        async with asyncio.timeout(60):
            await asyncio.gather(*(watcher.task for watcher in watchers))
    for watcher in watchers:
        assert watcher.sequences == sorted(set(watcher.sequences))
        assert all(sequence > watcher.after for sequence in watcher.sequences)
        assert watcher.chunks or not any(event.kind == CHUNK for event in watcher.seen)
        must = {
            event.sequence
            for event in rows.events["e"]
            if event.sequence > watcher.after and (watcher.chunks or event.kind != CHUNK)
        }
        assert must <= set(watcher.sequences)
