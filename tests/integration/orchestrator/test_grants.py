"""What becomes of grants when auth or a rival is in the way; auth is played, rows are real."""

import asyncio
from datetime import timedelta

import pytest

from services.common.clock import utc_now
from services.common.errors import Unavailable
from services.orchestrator.tables import executions
from services.orchestrator.usecases import housekeeping
from tests.integration.orchestrator.use_cases import ALICE, Orchestrator


async def test_nothing_is_queued_that_may_not_act(orchestrator: Orchestrator) -> None:
    orchestrator.grants.away = True
    with pytest.raises(Unavailable):
        await orchestrator.start("r")
    assert await orchestrator.rows() == []
    orchestrator.grants.away = False
    assert (await orchestrator.start("r")).grant_id


async def test_who_loses_against_the_same_request_leaves_no_grant_behind(orchestrator: Orchestrator) -> None:
    made = await asyncio.gather(*(orchestrator.start("r") for _ in range(5)))
    assert len({execution.id for execution in made}) == 1
    assert orchestrator.grants.unrevoked == {made[0].id}
    assert [row.id for row in await orchestrator.rows()] == [made[0].id]


async def test_an_end_does_not_wait_for_auth_which_is_asked_again_later(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More are forgotten than are read at once.
    monkeypatch.setattr(housekeeping, "_BATCH", 2)
    made = [await orchestrator.start() for _ in range(3)]
    orchestrator.grants.away = True
    for execution in made:
        assert (await orchestrator.executions.cancel(ALICE, execution.id)).state == "CANCELLED"
    assert all(row.grant_open for row in await orchestrator.rows())
    async with orchestrator.database.write() as connection:
        await connection.execute(executions.update().values(ended_at=utc_now() - timedelta(minutes=5)))
    before = orchestrator.grants.asked
    await orchestrator.housekeeping.once()
    # One refusal is enough to know that auth is away.
    assert orchestrator.grants.asked == before + 1
    orchestrator.grants.away = False
    await orchestrator.housekeeping.once()
    assert not any(row.grant_open for row in await orchestrator.rows())
    assert orchestrator.grants.unrevoked == set()
