"""What was postponed is not read again before it is tried again."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, cast

import pytest

from services.common.clock import utc_now
from services.orchestrator.usecases.scheduler import Scheduler

MINUTE = 60.0


@pytest.mark.parametrize(
    ("postponed", "following", "least", "most"),
    [
        ({"a": 4 * MINUTE, "b": 2 * MINUTE}, None, MINUTE, 2 * MINUTE),
        ({"a": 4 * MINUTE}, 2 * MINUTE, MINUTE, 2 * MINUTE),
        ({"a": 4 * MINUTE, "b": -MINUTE}, None, 0.0, 0.0),
        ({}, 2 * MINUTE, MINUTE, 2 * MINUTE),
    ],
)
async def test_the_next_round_is_due_with_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch, postponed: dict[str, float], following: float | None, least: float, most: float
) -> None:
    none = cast("Any", None)
    scheduler = Scheduler(none, none, none, none, 1.0)
    now = asyncio.get_running_loop().time()
    scheduler._postponed = {schedule_id: (1, now + seconds) for schedule_id, seconds in postponed.items()}
    fired: list[str] = []

    async def due(at: datetime) -> tuple[set[str], datetime | None]:
        return set(postponed), None if following is None else utc_now() + timedelta(seconds=following)

    async def fire(schedule_id: str) -> None:
        fired.append(schedule_id)

    monkeypatch.setattr(scheduler, "_due", due)
    monkeypatch.setattr(scheduler, "_fire", fire)
    pending = await scheduler.once()
    assert pending.seconds is not None
    assert least <= pending.seconds <= most
    assert fired == [schedule_id for schedule_id, seconds in postponed.items() if seconds < 0]
