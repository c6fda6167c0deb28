"""Events for everybody who watches: one reader for each watched execution, however many watch it."""

import asyncio
import functools
from collections.abc import AsyncGenerator

import structlog

from services.common.background import BackgroundTasks
from services.common.errors import NotFound
from services.common.feed_topics import Tail, Topics
from services.common.periodic import once
from services.orchestrator.domain.event import CHUNK, TERMINAL_KINDS, StoredEvent
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.events import EventReader

_PAGE = 200
_READ_AT_ONCE = 1000
# What an event takes in memory besides its payload, roughly.
_EVENT_BYTES = 300


class _Topic(Tail[int, StoredEvent]):
    """An execution that is watched, and the newest of its events."""

    def __init__(self, execution_id: str, last: int) -> None:
        super().__init__(last, lambda event: event.sequence, _size)
        self.execution_id = execution_id
        self.hinted = last
        """Events up to this sequence are known to exist."""
        self.reading = False
        self.deleted = False


class EventFeed:
    """Follows executions.

    A hint leads to one read for all watchers of its execution. Each takes from the same tail of newest events at its
    own pace, and reads rows by itself while it is further behind than that.
    """

    def __init__(self, events: EventReader, bus: HintBus, *, safety_read_seconds: float, tail_bytes: int) -> None:
        self._events = events
        self._bus = bus
        self._safety_read_seconds = safety_read_seconds
        self._tail_bytes = tail_bytes
        self._topics: Topics[_Topic] = Topics("sequence")
        self._background = BackgroundTasks()

    async def start(self) -> None:
        """Begin to listen for hints."""
        self._background.start(self._listen())

    def drain(self) -> None:
        """End every `follow`, now and from now on."""
        self._topics.drain()

    async def close(self) -> None:
        """Stop listening."""
        await self._background.stop()

    async def follow(
        self, execution_id: str, after: int, newest: int, *, chunks: bool = True
    ) -> AsyncGenerator[list[StoredEvent], None]:
        """Yield the events after a sequence, each once and in order, in lists as they are there, until the last.

        `newest` is the newest sequence that the execution's row had a moment ago; without `chunks` the chunks of
        models' answers are left out.

        Raises:
            Unavailable: this process ends; follow elsewhere, from the last sequence seen.
            NotFound: the execution was deleted, with the events that are missing.
        """
        position = after
        # A first watcher who misses little gets it with what was stored since: one read for both.
        begin = after if newest - after <= _PAGE else newest
        known = execution_id in self._topics.topics
        with self._topics.followed(execution_id, lambda: _Topic(execution_id, begin)) as topic:
            if not known:
                # The row was read before anybody listened here: what was stored in between has no hint any more.
                self._read(topic)
            elif max(newest, topic.hinted) > topic.last:
                # Also what the last read was to bring and has not.
                topic.hinted = max(topic.hinted, newest)
                self._read(topic)
            while True:
                self._topics.refuse_when_draining()
                if position < topic.floor:
                    # Read before looking at rows: all up to the floor were committed by then.
                    behind = topic.floor
                    events = await self._events.after(execution_id, position, _PAGE, chunks=chunks)
                    reached = behind if len(events) < _PAGE else 0
                else:
                    events = topic.after(position)
                    reached = topic.last
                if events:
                    position = events[-1].sequence
                    yield events if chunks else [event for event in events if event.kind != CHUNK]
                    if events[-1].kind in TERMINAL_KINDS:
                        return
                position = max(position, reached)
                if position >= topic.last:
                    self._topics.refuse_when_draining()
                    if topic.deleted:
                        raise NotFound.of("execution", execution_id)
                    await topic.changed.wait()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        with self._bus.subscribe(HintKind.EVENTS_STORED) as subscription:
            next_safety_read = loop.time() + self._safety_read_seconds
            while True:
                for hint in await subscription.take(max(0.0, next_safety_read - loop.time())):
                    if hint.kind is HintKind.RESYNC:
                        next_safety_read = loop.time()
                        continue
                    topic = self._topics.topics.get(hint.execution_id)
                    if topic is not None and hint.last_sequence > topic.hinted:
                        topic.hinted = hint.last_sequence
                        self._read(topic)
                if loop.time() >= next_safety_read:
                    # Watchers must not end for a database that is away for a moment.
                    await once(self._safety_read, "safety_read")
                    next_safety_read = loop.time() + self._safety_read_seconds

    async def _safety_read(self) -> None:
        topics = list(self._topics.topics.values())
        for start in range(0, len(topics), _READ_AT_ONCE):
            portion = topics[start : start + _READ_AT_ONCE]
            newest = await self._events.newest([topic.execution_id for topic in portion])
            for topic in portion:
                sequence = newest.get(topic.execution_id)
                if sequence is None:
                    topic.deleted = True
                    topic.wake()
                elif sequence > topic.last:
                    topic.hinted = max(topic.hinted, sequence)
                    self._read(topic)

    def _read(self, topic: _Topic) -> None:
        if not topic.reading:
            topic.reading = True
            self._background.start(self._update(topic))

    async def _update(self, topic: _Topic) -> None:
        with structlog.contextvars.bound_contextvars(execution_id=topic.execution_id):
            # The next hint or the next safety read tries again.
            await once(functools.partial(self._read_tail, topic), "tail_read")
        topic.reading = False

    async def _read_tail(self, topic: _Topic) -> None:
        while True:
            hinted = topic.hinted
            events = await self._events.after(topic.execution_id, topic.last, _READ_AT_ONCE)
            if events:
                topic.extend(events, self._tail_bytes)
            # A hint that came meanwhile may be about events this read was too early for.
            if len(events) < _READ_AT_ONCE and topic.hinted == hinted:
                return


def _size(event: StoredEvent) -> int:
    return _EVENT_BYTES + len(event.payload)
