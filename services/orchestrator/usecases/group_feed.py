"""Events of whole groups for everybody who watches: one reader for each watched group, however many watch it."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import structlog

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.feed_topics import Tail, Topics
from services.common.periodic import once
from services.orchestrator.domain.group_event import EventFilter, GroupEvent, Position
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.group_events import GroupEventReader

logger = structlog.get_logger(__name__)

_PAGE = 500
# What an event takes in memory besides its payload and its labels, roughly.
_EVENT_BYTES = 600
# Events of transactions that overlap with older ones are read a moment later.
_HELD_BACK = Backoff(0.005, 1.0)
_HELD_BACK_TOO_LONG = 15


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a watcher gets at once: the events chosen in a stretch of the stream, and where it ends."""

    events: list[GroupEvent]
    position: Position
    reached_at: datetime
    """When the stream was at that position."""


class _Topic(Tail[Position, GroupEvent]):
    """A group that is watched, and the newest of its events."""

    def __init__(self, group_id: str, last: Position) -> None:
        super().__init__(last, lambda event: event.position, _size)
        self.group_id = group_id
        self.hinted = asyncio.Event()
        self.background = BackgroundTasks()


class GroupFeed:
    """Follows groups. See `EventFeed`, which does the same for single executions."""

    def __init__(
        self,
        events: GroupEventReader,
        bus: HintBus,
        *,
        safety_read_seconds: float,
        tail_bytes: int,
        mark_seconds: float = 30.0,
    ) -> None:
        """A watcher to whom nothing was shown for `mark_seconds` gets the position without events."""
        self._events = events
        self._bus = bus
        self._safety_read_seconds = safety_read_seconds
        self._tail_bytes = tail_bytes
        self._mark_seconds = mark_seconds
        self._topics: Topics[_Topic] = Topics("position", self._close)
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
        for topic in self._topics.topics.values():
            await topic.background.stop()

    async def follow(
        self, group_id: str, after: Position, settled: Position, chosen: EventFilter
    ) -> AsyncIterator[Stretch]:
        """Yield the chosen events of a group after a position, each once and in order, as they are there.

        `settled` is what the reader returned a moment ago. The first stretch comes at once.

        Raises:
            Unavailable: this process ends; follow elsewhere, from the last position seen.
        """
        loop = asyncio.get_running_loop()
        position = after
        with self._topics.followed(group_id, lambda: self._open(group_id, settled)) as topic:
            yield Stretch([], position, utc_now())
            shown = loop.time()
            while True:
                self._topics.refuse_when_draining()
                at_end = position >= topic.last
                if at_end:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(shown + self._mark_seconds):
                            await topic.changed.wait()
                found, position = await self._next(topic, position)
                events = [event for event in found if chosen.shows(event)]
                if events or loop.time() >= shown + self._mark_seconds:
                    reached = utc_now() if position == topic.last or not found else found[-1].stored_at
                    yield Stretch(events, position, reached)
                    shown = loop.time()

    async def _next(self, topic: _Topic, position: Position) -> tuple[list[GroupEvent], Position]:
        """Return events after a position, and the position behind them."""
        if position >= topic.floor:
            return topic.after(position), max(position, topic.last)
        # Read before looking at rows: all up to the floor were committed by then.
        behind = topic.floor
        events = (await self._events.after(topic.group_id, position, _PAGE)).events
        if len(events) == _PAGE:
            return events, events[-1].position
        return events, max(behind, events[-1].position) if events else behind

    def _open(self, group_id: str, settled: Position) -> _Topic:
        topic = _Topic(group_id, settled)
        topic.background.start(self._read_on(topic))
        return topic

    def _close(self, topic: _Topic) -> None:
        self._background.start(topic.background.stop())

    async def _listen(self) -> None:
        with self._bus.subscribe(HintKind.EVENTS_STORED) as subscription:
            while True:
                for hint in await subscription.take():
                    lost = hint.kind is HintKind.RESYNC
                    hinted = (
                        self._topics.topics.values() if lost else filter(None, [self._topics.topics.get(hint.group_id)])
                    )
                    for topic in hinted:
                        topic.hinted.set()

    async def _read_on(self, topic: _Topic) -> None:
        """Keep the tail of a group new: after each hint, and now and then without one."""
        with structlog.contextvars.bound_contextvars(group_id=topic.group_id):
            while True:
                await once(functools.partial(self._read_tail, topic), "group_tail_read")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._safety_read_seconds):
                        await topic.hinted.wait()

    async def _read_tail(self, topic: _Topic) -> None:
        held_back = 0
        while True:
            hinted = topic.hinted.is_set()
            topic.hinted.clear()
            # Before the rows: what is settled now is read then.
            settled = topic.last if hinted else await self._events.settled()
            read = await self._events.after(topic.group_id, topic.last, _PAGE)
            if read.events:
                topic.extend(read.events, self._tail_bytes)
            if read.held_back:
                held_back += 1
                if held_back == _HELD_BACK_TOO_LONG:
                    logger.warning("group_events_held_back")
                await asyncio.sleep(_HELD_BACK.pause(held_back))
            elif len(read.events) < _PAGE:
                topic.last = max(topic.last, settled)
                return


def _size(event: GroupEvent) -> int:
    labels = sum(len(name) + len(value) for name, value in event.labels.items())
    return _EVENT_BYTES + len(event.event.payload) + labels
