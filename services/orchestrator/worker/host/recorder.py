"""Writes what happens in one claimed execution: events in order and their rows, in small transactions."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog
from google.protobuf.message import Message

from coxswain.orchestrator.v1 import execution_pb2
from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import Unavailable
from services.orchestrator.domain.event import NewEvent
from services.orchestrator.domain.execution import Execution, Success, Usage
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.domain.tool_usage import ToolUsageRecord
from services.orchestrator.events import new_event
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.run_store import RunStore

logger = structlog.get_logger(__name__)

Change = Callable[[FencedWrite], Awaitable[object]]
"""Changes rows within a transaction."""

_BACKOFF = Backoff(0.1, 5.0)
_SOON_SECONDS = 0.01
_NEXT_SECONDS = 0.5
_MOST_CHUNK_CHARACTERS = 16_000
"""Of one event, which has to fit the smallest message that can be configured: a slow database lets chunks grow."""
_MOST_PIECE_CHARACTERS = _MOST_CHUNK_CHARACTERS // 2
"""Of text and of reasoning that come at once."""


@dataclass(frozen=True, slots=True)
class TaskRef:
    """The attempt at a task that an event belongs to."""

    task_index: int | None = None
    """None for events of the execution as a whole, and of the crew's plan."""
    task_name: str = ""
    attempt: int = 0


@dataclass(slots=True)
class _Chunk:
    """Pieces of one answer that are not stored yet."""

    task: TaskRef
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    characters: int = 0


@dataclass(slots=True)
class _Batch:
    events: list[NewEvent] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    chunks: dict[str, _Chunk] = field(default_factory=dict)
    used: dict[int, Usage] = field(default_factory=dict)
    """By the task's index."""
    tool_calls: list[ToolUsageRecord] = field(default_factory=list)
    succeeded: Success | None = None
    """With what the execution ends."""
    costly: bool = False
    """Whether it holds what is expensive to get again."""
    error: BaseException | None = None
    """Why it was not stored."""

    def __bool__(self) -> bool:
        return bool(self.events or self.changes or self.chunks or self.used or self.tool_calls)


class Recorder:
    """Stores events and changes of one execution under one claim.

    What is only added is stored within `interval` seconds; `commit` waits until it and everything before is stored.
    A database that does not answer is asked again until it does or the recorder is closed.
    """

    def __init__(
        self,
        store: RunStore,
        execution: Execution,
        *,
        interval: float,
        hints: HintBus,
        pruner: ChunkPruner,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`execution` is as it was claimed.

        `hints` carries the newest sequence after each transaction; `on_failure` gets what ended writing by timer.
        """
        self._store = store
        self._execution_id = execution.id
        self._group_id = execution.group_id
        self._epoch = execution.epoch
        self._last_sequence = execution.last_sequence
        self._interval = interval
        self._hints = hints
        self._pruner = pruner
        self._on_failure = on_failure
        self._batch = _Batch()
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._background = BackgroundTasks()

    @property
    def last_sequence(self) -> int:
        """The newest sequence this recorder has seen."""
        return self._last_sequence

    def add(
        self, task: TaskRef, body: Message, *also_store: Change, call_id: str = "", flush_soon: bool = False
    ) -> None:
        """Store an event (a message of `ExecutionEvent`'s oneof) and the changes that go with it.

        `flush_soon` is for what is expensive to get again: it waits only long enough to share a transaction with what
        follows at once.
        """
        self._close_chunk(call_id)
        self._batch.events.append(_event(task, body, call_id))
        self._batch.changes += also_store
        self._batch.costly |= flush_soon
        self._schedule(_SOON_SECONDS if flush_soon else self._interval)

    async def keep_costly(self) -> None:
        """Wait until all that is expensive to get again is stored, before more of it is asked for.

        Raises:
            Fenced: the claim is not the newest one.
        """
        if self._batch.costly or self._writing.locked():
            await self.flush()

    def add_with_next(self, task: TaskRef, body: Message, *also_store: Change) -> None:
        """Store an event and the changes that go with it together with the next one, which is about to come."""
        self._batch.events.append(_event(task, body))
        self._batch.changes += also_store
        self._schedule(max(self._interval, _NEXT_SECONDS))

    def use(self, index: int, used: Usage) -> None:
        """Add what a call has used to its task and the execution."""
        self._batch.used[index] = self._batch.used.get(index, Usage()) + used
        self._schedule(self._interval)

    def record_tool_call(self, call: ToolUsageRecord) -> None:
        """Store what a tool call that has ended has used."""
        self._batch.tool_calls.append(call)
        self._schedule(self._interval)

    def also_store(self, *changes: Change) -> None:
        """Store changes that have no event."""
        self._batch.changes += changes
        self._schedule(self._interval)

    def chunk(self, task: TaskRef, call_id: str, *, text: str = "", reasoning: str = "") -> None:
        """Store a chunk of a model's answer; chunks that follow each other closely become one event."""
        for first in range(0, max(len(text), len(reasoning)), _MOST_PIECE_CHARACTERS):
            piece = slice(first, first + _MOST_PIECE_CHARACTERS)
            self._add_to_chunk(task, call_id, text[piece], reasoning[piece])
        self._schedule(self._interval)

    def _add_to_chunk(self, task: TaskRef, call_id: str, text: str, reasoning: str) -> None:
        characters = len(text) + len(reasoning)
        chunk = self._batch.chunks.setdefault(call_id, _Chunk(task))
        if chunk.characters + characters > _MOST_CHUNK_CHARACTERS:
            self._close_chunk(call_id)
            chunk = self._batch.chunks.setdefault(call_id, _Chunk(task))
        chunk.text.append(text)
        chunk.reasoning.append(reasoning)
        chunk.characters += characters

    def prune_chunks(self, call_id: str, after_sequence: int) -> None:
        """Remove the chunks of an ended call, all of which come after a sequence, once their retention is over."""
        self._pruner.add(self._execution_id, call_id, after_sequence)

    async def commit(
        self, events: Sequence[tuple[TaskRef, Message]], *also_store: Change, succeeded: Success | None = None
    ) -> None:
        """Store events and the changes that go with them, with all that was added before, in one transaction.

        With `succeeded` the execution ends with it.

        Raises:
            Fenced: the claim is not the newest one.
        """
        for call_id in list(self._batch.chunks):
            self._close_chunk(call_id)
        batch = self._batch
        batch.events += [_event(task, body) for task, body in events]
        batch.changes += also_store
        batch.succeeded = succeeded or batch.succeeded
        await self.flush()
        # The timer may have taken it before, and have failed.
        if batch.error is not None:
            raise batch.error

    async def flush(self) -> None:
        """Store all that was added.

        Raises:
            Fenced: the claim is not the newest one.
        """
        # The caller may be cancelled; what others have added is written all the same.
        await asyncio.shield(self._background.start(self._flush()))

    async def _flush(self) -> None:
        async with self._writing:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            batch, self._batch = self._batch, _Batch()
            if not batch:
                return
            for call_id, chunk in batch.chunks.items():
                batch.events.append(_chunk_event(call_id, chunk))
            try:
                await self._write_until_stored(batch)
            except BaseException as error:
                batch.error = error
                raise

    async def close(self) -> None:
        """Write no more; what was not stored yet is dropped."""
        if self._timer is not None:
            self._timer.cancel()
        await self._background.stop()

    def _close_chunk(self, call_id: str) -> None:
        chunk = self._batch.chunks.pop(call_id, None)
        if chunk is not None:
            self._batch.events.append(_chunk_event(call_id, chunk))

    def _schedule(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay, self._flush_in_background)

    def _flush_in_background(self) -> None:
        self._timer = None
        self._background.start(self._flush_or_report())

    async def _flush_or_report(self) -> None:
        try:
            await self._flush()
        except Exception as error:  # noqa: BLE001 - handed on
            self._on_failure(error)

    async def _write_until_stored(self, batch: _Batch) -> None:
        attempt = 0
        stored = False
        in_group_stream = True
        while not stored:
            try:
                write = await self._write(batch)
                self._last_sequence = max(write.last_sequence, self._last_sequence)
                in_group_stream = write.in_group_stream
                stored = True
            except Unavailable:
                logger.warning("database_unavailable", execution_id=self._execution_id)
                attempt += 1
                await asyncio.sleep(_BACKOFF.pause(attempt))
                if batch.events and await self._was_stored(batch.events[0]):
                    # The commit was made although it was not confirmed.
                    self._last_sequence += len(batch.events)
                    stored = True
        group_id = self._group_id if in_group_stream else ""
        self._hints.publish(Hint(HintKind.EVENTS_STORED, self._execution_id, self._last_sequence, group_id))

    async def _write(self, batch: _Batch) -> FencedWrite:
        used = sum(batch.used.values(), Usage()) if batch.used else None
        async with self._store.fenced(self._execution_id, self._epoch, batch.events, used, batch.succeeded) as write:
            for change in batch.changes:
                await change(write)
            for index, of_task in batch.used.items():
                await write.tasks.add_usage(index, of_task)
            if batch.tool_calls:
                await write.put_tool_usage(batch.tool_calls)
            return write

    async def _was_stored(self, event: NewEvent) -> bool:
        try:
            return await self._store.is_stored(self._execution_id, self._last_sequence, event)
        except Unavailable:
            return False


def _event(task: TaskRef, body: Message, call_id: str = "") -> NewEvent:
    # A batch whose commit was not confirmed is recognised by its time.
    return new_event(
        body,
        task_index=task.task_index,
        task_name=task.task_name,
        attempt=task.attempt,
        call_id=call_id,
        time=utc_now(),
    )


def _chunk_event(call_id: str, chunk: _Chunk) -> NewEvent:
    body = execution_pb2.LlmChunk(call_id=call_id, text="".join(chunk.text), reasoning="".join(chunk.reasoning))
    return _event(chunk.task, body, call_id)
