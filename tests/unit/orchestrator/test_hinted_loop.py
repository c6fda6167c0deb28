"""What is due is done when it is due, when it was hinted at, and rarely without either."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.usecases.hinted_loop import HintedLoop, Pending

FOR_EVER = 3600.0
SOON = 0.001


class Rounds:
    """The rounds of a loop: each returns what the test has put there."""

    def __init__(self, pending: Pending | Exception) -> None:
        self.bus = LocalHintBus()
        self._pending = pending
        self._begun: asyncio.Queue[None] = asyncio.Queue()

    async def round(self) -> Pending:
        self._begun.put_nowait(None)
        if isinstance(self._pending, Exception):
            raise self._pending
        return self._pending

    @contextlib.asynccontextmanager
    async def running(self, interval: float) -> AsyncIterator[None]:
        loop = HintedLoop(self.bus, self.round, interval=interval, name="rounds")
        work = asyncio.create_task(loop.run())
        try:
            await self.another()
            yield
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def another(self) -> None:
        """Wait for a round that nobody has waited for yet."""
        async with asyncio.timeout(60):
            await self._begun.get()


@pytest.mark.parametrize(
    "hint",
    [
        Hint(HintKind.WORK_STORED, "any"),
        Hint(HintKind.RESYNC),
        Hint(HintKind.EVENTS_STORED, "any", 3, "waited for"),
    ],
)
async def test_a_hint_leads_to_a_round_at_once(hint: Hint) -> None:
    rounds = Rounds(Pending({"waited for"}))
    async with rounds.running(FOR_EVER):
        rounds.bus.publish(hint)
        await rounds.another()


@pytest.mark.parametrize(
    "pending",
    [Pending(), Pending({"waited for"}), Pending(seconds=0.0), Pending(seconds=FOR_EVER), ValueError("a fault")],
)
async def test_without_a_hint_rounds_come_as_well(pending: Pending | Exception) -> None:
    rounds = Rounds(pending)
    async with rounds.running(SOON):
        await rounds.another()
        await rounds.another()


@pytest.mark.parametrize(
    ("pending", "least", "most"),
    [
        (Pending({"waited for"}), 2.0, 2.0),
        (Pending(), 30.0, 30.0),
        (Pending(seconds=-5.0), 0.0, 2.0),
        (Pending(seconds=7.0), 7.0, 9.0),
        (Pending(seconds=FOR_EVER), 30.0, 30.0),
    ],
)
async def test_the_pause_follows_what_is_pending(pending: Pending, least: float, most: float) -> None:
    rounds = Rounds(pending)
    loop = HintedLoop(rounds.bus, rounds.round, interval=2.0, name="rounds")
    await loop._round()
    assert least <= loop._seconds() <= most
