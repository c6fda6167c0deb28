"""Listening and publishing, and the bus within one process."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from services.orchestrator.domain.hint import Hint, HintKind

_MAX_WAITING = 10_000


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
        known = self._waiting.get(key, hint)
        newest = max(known, hint, key=lambda waiting: waiting.last_sequence)
        self._waiting[key] = replace(newest, group_id=known.group_id or hint.group_id)
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
        """Notify all listeners as soon as possible. Call it after the rows are committed."""
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
