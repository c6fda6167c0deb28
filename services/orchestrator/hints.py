"""Hints: who waits for something is told at once that there is something to read.

A hint carries no truth. It may be lost, doubled or late; whoever listens also reads on its own now and then. So
publishing never fails and never waits, and listeners get `RESYNC` when hints may have been lost.

Three buses say the same: `LocalHintBus` within the API process, `PostgresHintBus` through LISTEN and NOTIFY, and
`RemoteHintBus` from a worker host to the API process where the database cannot carry hints (SQLite).
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import asyncpg
import grpc
import structlog
from sqlalchemy.exc import SQLAlchemyError

from coxswain.orchestrator.v1 import worker_pb2, worker_service_pb2_grpc
from services.common.db.database import Database
from services.common.errors import CoxswainError

logger = structlog.get_logger(__name__)

_MAX_WAITING = 10_000
_FIRST_RETRY_SECONDS = 0.1
_LAST_RETRY_SECONDS = 5.0
_PING_SECONDS = 30.0


class HintKind(StrEnum):
    """What there is to read; all but RESYNC have the names of `coxswain.orchestrator.v1.HintKind`."""

    EXECUTION_READY = "EXECUTION_READY"
    """An execution is ready for a worker."""
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    """The cancellation of a running execution was asked for."""
    EVENTS_STORED = "EVENTS_STORED"
    """An execution has new events."""
    RESYNC = "RESYNC"
    """Hints may have been lost: read everything. Made by a bus, never published."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Says that there is something to read."""

    kind: HintKind
    execution_id: str = ""
    last_sequence: int = 0
    """For EVENTS_STORED: the newest sequence."""


class Subscription:
    """What one listener has not read yet. Hints of one kind about one execution become one, the newest."""

    def __init__(self, kinds: Iterable[HintKind]) -> None:
        self._kinds = frozenset(kinds)
        self._waiting: dict[tuple[HintKind, str], Hint] = {}
        self._arrived = asyncio.Event()

    def offer(self, hint: Hint) -> None:
        """Keep a hint if this listener wants its kind."""
        if hint.kind is not HintKind.RESYNC and hint.kind not in self._kinds:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.clear()
            hint = Hint(HintKind.RESYNC)
        key = (hint.kind, hint.execution_id)
        known = self._waiting.get(key)
        if known is None or known.last_sequence < hint.last_sequence:
            self._waiting[key] = hint
        self.wake()

    def wake(self) -> None:
        """Let `take` return now, hints or not."""
        self._arrived.set()

    async def take(self, timeout: float | None = None) -> list[Hint]:
        """Wait for hints and return all there are, oldest first; none when `timeout` seconds pass."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._arrived.wait()
        self._arrived.clear()
        hints = list(self._waiting.values())
        self._waiting.clear()
        return hints


class HintBus(Protocol):
    """Carries hints between the processes of the orchestrator."""

    async def start(self) -> None:
        """Begin to carry; returns at once, whether or not the other side can be reached yet."""
        ...

    def publish(self, hint: Hint) -> None:
        """Tell everybody who listens, as soon as possible. Call it after the rows are committed."""
        ...

    def subscribe(self, *kinds: HintKind) -> contextlib.AbstractContextManager[Subscription]:
        """Listen for hints of some kinds, and for RESYNC, until the block ends."""
        ...

    async def close(self) -> None:
        """Stop carrying."""
        ...


class LocalHintBus:
    """Carries hints within this process."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    async def start(self) -> None:
        """See `HintBus`."""

    def publish(self, hint: Hint) -> None:
        """See `HintBus`."""
        for subscription in self._subscriptions:
            subscription.offer(hint)

    @contextlib.contextmanager
    def subscribe(self, *kinds: HintKind) -> Iterator[Subscription]:
        """See `HintBus`."""
        subscription = Subscription(kinds)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def close(self) -> None:
        """See `HintBus`."""


class PostgresHintBus(LocalHintBus):
    """Carries hints through PostgreSQL, over one connection that is opened again when it breaks."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._channel = f"coxswain_{database.schema}_hints"
        self._outgoing = Subscription(HintKind)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """See `HintBus`."""
        self._task = asyncio.create_task(_persist("postgresql", self._carry))

    def publish(self, hint: Hint) -> None:
        """See `HintBus`."""
        self._outgoing.offer(hint)

    async def close(self) -> None:
        """See `HintBus`."""
        await _end(self._task)

    async def _carry(self, working: "_Working") -> None:
        connection = await self._database.engine.connect()
        try:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(self._lost)
            await driver.add_listener(self._channel, self._heard)
            working()
            super().publish(Hint(HintKind.RESYNC))
            while True:
                hints = await self._outgoing.take(_PING_SECONDS)
                payloads = [f"{hint.kind} {hint.execution_id} {hint.last_sequence}" for hint in hints]
                try:
                    # With nothing to send this is what finds out that the connection is dead.
                    await driver.execute(
                        "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
                        self._channel,
                        payloads,
                        timeout=_PING_SECONDS,
                    )
                except BaseException:
                    for hint in hints:
                        self._outgoing.offer(hint)
                    raise
        finally:
            # Never back to the pool: it listens.
            await connection.invalidate()
            await connection.close()

    def _lost(self, _connection: object) -> None:
        self._outgoing.wake()

    def _heard(self, _connection: object, _process: int, _channel: str, payload: str) -> None:
        kind, execution_id, last_sequence = payload.split(" ")
        try:
            hint = Hint(HintKind(kind), execution_id, int(last_sequence))
        except ValueError:
            return  # A newer release knows more kinds.
        super().publish(hint)


class RemoteHintBus(LocalHintBus):
    """Carries hints between a worker host and the API process."""

    def __init__(self, channel: grpc.aio.Channel, executor_id: str) -> None:
        """`channel` leads to the orchestrator's internal listener."""
        super().__init__()
        self._stub: worker_service_pb2_grpc.WorkerServiceAsyncStub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self._executor_id = executor_id
        self._outgoing = Subscription([kind for kind in HintKind if kind is not HintKind.RESYNC])
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See `HintBus`."""
        self._tasks = [
            asyncio.create_task(_persist("orchestrator", self._receive)),
            asyncio.create_task(_persist("orchestrator", self._send)),
        ]

    def publish(self, hint: Hint) -> None:
        """See `HintBus`."""
        self._outgoing.offer(hint)

    async def close(self) -> None:
        """See `HintBus`."""
        await _end(*self._tasks)

    async def _receive(self, working: "_Working") -> None:
        request = worker_pb2.SubscribeHintsRequest(executor_id=self._executor_id)
        call = self._stub.SubscribeHints(request)
        await call.initial_metadata()
        working()
        super().publish(Hint(HintKind.RESYNC))
        async for response in call:
            hint = from_proto(response.hint)
            if hint is not None:
                super().publish(hint)

    async def _send(self, working: "_Working") -> None:
        while True:
            hints = await self._outgoing.take()
            try:
                while hints:
                    # RESYNC only says that this side lost hints: the readers' own reads cover them.
                    if hints[0].kind is not HintKind.RESYNC:
                        await self._stub.PublishHint(worker_pb2.PublishHintRequest(hint=to_proto(hints[0])))
                        working()
                    hints.pop(0)
            finally:
                for hint in hints:
                    self._outgoing.offer(hint)


def to_proto(hint: Hint) -> worker_pb2.Hint:
    """Return the message of a hint that is not RESYNC."""
    return worker_pb2.Hint(
        kind=worker_pb2.HintKind.Value(f"HINT_KIND_{hint.kind}"),
        execution_id=hint.execution_id,
        last_sequence=hint.last_sequence,
    )


def from_proto(message: worker_pb2.Hint) -> Hint | None:
    """Return the hint of a message, or None for a kind this release does not know."""
    try:
        kind = HintKind(worker_pb2.HintKind.Name(message.kind).removeprefix("HINT_KIND_"))
    except ValueError:
        return None
    return Hint(kind, message.execution_id, message.last_sequence)


class _Working(Protocol):
    def __call__(self) -> None:
        """Say that the other side answers."""
        ...


class _Work(Protocol):
    def __call__(self, working: _Working) -> Coroutine[Any, Any, None]:
        """Carry until the connection ends."""
        ...


async def _persist(other_side: str, work: _Work) -> None:
    """Do `work` again whenever it ends, with growing pauses while the other side does not answer."""
    pause = _FIRST_RETRY_SECONDS

    def working() -> None:
        nonlocal pause
        pause = _FIRST_RETRY_SECONDS

    while True:
        try:
            await work(working)
        except (
            OSError,
            TimeoutError,
            SQLAlchemyError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            grpc.RpcError,
            CoxswainError,
        ) as error:
            logger.warning("hints_interrupted", other_side=other_side, error=type(error).__name__)
        except Exception:
            # Who ended here would leave everybody to their slow polls.
            logger.exception("hints_interrupted", other_side=other_side)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LAST_RETRY_SECONDS)


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
