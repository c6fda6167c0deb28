"""Work that is due when something has happened in a group, and regularly."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection

from services.common.periodic import once
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.hints.bus import HintBus, Subscription

# Between two rounds, however many events there are.
_PAUSE_SECONDS = 0.05


class HintedLoop:
    """Repeats an action: after events of groups that it waits for, when it is woken, and every `interval` seconds."""

    def __init__(
        self, bus: HintBus, action: Callable[[], Awaitable[Collection[str]]], *, interval: float, name: str
    ) -> None:
        """`action` returns the groups whose events may bring it more to do; its failures are logged under `name`."""
        self._bus = bus
        self._action = action
        self._interval = interval
        self._name = name
        self._groups: Collection[str] = ()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Repeat the action at once."""
        self._woken.set()

    async def run(self) -> None:
        """Repeat the action until cancelled."""
        with self._bus.subscribe(HintKind.EVENTS_STORED) as subscription:
            while True:
                self._woken.clear()
                await once(self._round, self._name)
                await asyncio.sleep(_PAUSE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._wait(subscription)

    async def _round(self) -> None:
        self._groups = await self._action()

    async def _wait(self, subscription: Subscription) -> None:
        woken = asyncio.create_task(self._woken.wait())
        woken.add_done_callback(lambda _: subscription.wake())
        try:
            while not self._woken.is_set():
                hints = await subscription.take()
                if any(hint.kind is HintKind.RESYNC or hint.group_id in self._groups for hint in hints):
                    return
        finally:
            woken.cancel()
