"""Work that is due when something has happened, or at a time that is known."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from services.common.periodic import once
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.hints.bus import HintBus, Subscription

# Between two rounds, however many events there are.
_PAUSE_SECONDS = 0.05
# Hints can be lost: nothing is left alone for more intervals than this, or for more seconds if they are fewer.
_LONGEST_PAUSE = 30


@dataclass(frozen=True, slots=True)
class Pending:
    """What a round has left to do for later ones."""

    groups: Collection[str] = ()
    """Whose events may bring more to do."""
    seconds: float | None = None
    """Until something is due; None: nothing is that is known of."""


class HintedLoop:
    """Repeats an action: when work was stored, after events of groups that it waits for, and when something is due."""

    def __init__(
        self,
        bus: HintBus,
        action: Callable[[], Awaitable[Pending]],
        *,
        interval: float,
        name: str,
        hints: Collection[HintKind] = (HintKind.EVENTS_STORED, HintKind.WORK_STORED),
    ) -> None:
        """Two rounds are `interval` seconds apart while groups are waited for, else up to thirty times as far.

        They are never more than 30 seconds apart, or than `interval` if that is longer. Failures of `action` are
        logged under `name`, and it is repeated after `interval`. Without EVENTS_STORED among the `hints`, no events
        can be waited for.
        """
        self._bus = bus
        self._action = action
        self._interval = interval
        self._longest_pause = min(interval * _LONGEST_PAUSE, max(interval, _LONGEST_PAUSE))
        self._name = name
        self._hints = hints
        self._pending: Pending | None = None

    async def run(self) -> None:
        """Repeat the action until cancelled."""
        with self._bus.subscribe(*self._hints) as subscription:
            while True:
                self._pending = None
                await once(self._round, self._name)
                await asyncio.sleep(_PAUSE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds()):
                        await self._wait(subscription)

    async def _round(self) -> None:
        self._pending = await self._action()

    def _seconds(self) -> float:
        pending = self._pending
        if pending is None or pending.groups:
            return self._interval
        if pending.seconds is None:
            return self._longest_pause
        # Replicas know of the same times, and only one of them can do what is due.
        spread = random.random() * self._interval  # noqa: S311 - nothing to guess
        return min(max(0.0, pending.seconds) + spread, self._longest_pause)

    async def _wait(self, subscription: Subscription) -> None:
        groups = self._pending.groups if self._pending is not None else ()
        while True:
            for hint in await subscription.take():
                if hint.kind is not HintKind.EVENTS_STORED or hint.group_id in groups:
                    return
