"""What calls used is stored whatever else happens, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import func, insert, select

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.common.ids import new_id
from services.models.domain.budget import Period
from services.models.domain.usage import Usage, UsageRecord
from services.models.repositories.usage import UsageRepository, read_sums
from services.models.settings import ModelsSettings
from services.models.tables import budget_alerts, usage_days, usage_records
from services.models.usecases.usage import UsageReports
from services.models.usecases.usage_recorder import UsageRecorder
from tests.integration.models.support import CHAT, ask, serve_models
from tests.support.service_tables import make_service_tables


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_service_tables("models", database_url)
    database = Database(database_url, "models", null_pool=True)
    yield database
    await database.close()


@pytest.fixture
async def recorder(database: Database) -> AsyncIterator[UsageRecorder]:
    recorder = UsageRecorder(database)
    recorder.start()
    yield recorder
    await recorder.close(1)


def _record(group: str, input_tokens: int = 1) -> UsageRecord:
    return UsageRecord(new_id(), group, "m", "", utc_now(), Usage(input_tokens, cost=0.5))


def _lost(reason: str) -> float:
    return REGISTRY.get_sample_value("coxswain_models_usage_lost_total", {"reason": reason}) or 0.0


async def _stored(database: Database) -> int:
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(usage_records)) or 0)


async def test_a_record_that_cannot_be_stored_is_set_aside_alone(database: Database, recorder: UsageRecorder) -> None:
    for number in range(300):
        recorder.record(_record(f"g{number}", 10**20 if number in (0, 77, 299) else 1))
    assert await recorder.flush(60)
    assert await _stored(database) == 297


async def test_the_end_of_the_service_stores_all_but_a_record_that_cannot_be_stored(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _lost("refused"), _lost("shutdown")
    async with serve_models(tmp_path, monkeypatch, database_url=database_url) as models:
        await models.inference().Complete(ask(CHAT))
        # SIGTERM closes services as the end of this block does.
        service: Any = models.harness.services["models"]
        recorder = service._recorder
        for number in range(40):
            recorder.record(_record("sales", 10**20 if number == 17 else 1))
        assert len(recorder.waiting) >= 40
    url = f"sqlite:///{tmp_path / 'models.db'}" if database_url.startswith("sqlite") else database_url
    database = Database(url, "models", null_pool=True)
    assert await _stored(database) == 40
    await database.close()
    assert (_lost("refused"), _lost("shutdown")) == (before[0] + 1, before[1])


async def test_readers_do_not_wait_for_a_database_that_is_away(
    recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    away = True
    add = UsageRepository.add

    async def add_or_fail(self: UsageRepository, records: list[UsageRecord], *, maybe_stored: bool) -> None:
        if away:
            raise Unavailable("the database does not answer")
        await add(self, records, maybe_stored=maybe_stored)

    monkeypatch.setattr(UsageRepository, "add", add_or_fail)
    recorder.record(_record("g"))
    assert not await recorder.flush(0.01)
    away = False
    assert await recorder.flush(60)
    assert await _stored(database) == 1


async def test_records_of_a_moment_are_one_batch(
    recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    batches: list[int] = []
    add = UsageRepository.add

    async def counted(self: UsageRepository, records: list[UsageRecord], *, maybe_stored: bool) -> None:
        batches.append(len(records))
        await add(self, records, maybe_stored=maybe_stored)

    monkeypatch.setattr(UsageRepository, "add", counted)
    for _ in range(20):
        recorder.record(_record("g"))
        await asyncio.sleep(0)
    assert await recorder.flush(60)
    assert batches == [20]


async def test_what_comes_while_a_batch_is_written_gathers_anew(
    recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    batches: list[int] = []
    add = UsageRepository.add

    async def joined(self: UsageRepository, records: list[UsageRecord], *, maybe_stored: bool) -> None:
        batches.append(len(records))
        if len(batches) == 1:
            recorder.record(_record("g"))
        await add(self, records, maybe_stored=maybe_stored)

    monkeypatch.setattr(UsageRepository, "add", joined)
    monkeypatch.setattr("services.models.usecases.usage_recorder._GATHER_SECONDS", 60)
    recorder.record(_record("g"))
    assert await recorder.flush(60)
    recorder.record(_record("g"))
    assert await recorder.flush(60)
    assert batches == [1, 2]


async def test_usage_is_kept_for_its_time_and_that_of_the_present_month_in_any_case(
    database: Database, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    times = [now - timedelta(days=70), month - timedelta(days=2), month, now]
    alert = {"model": "m", "subject": "", "ceiling": False, "limit_name": "daily_cost_limit", "allowed": 1, "used": 1}
    async with database.write() as connection:
        for group in ("a", "b"):
            records = [
                UsageRecord(f"{group}{number}", group, "m", "", time, Usage(1)) for number, time in enumerate(times)
            ]
            await UsageRepository(connection).add(records, maybe_stored=False)
            rows = [
                {**alert, "group_id": group, "alert_share": 1, "id": each.id, "created_at": each.called_at}
                | {"period": f"{number}"}
                for number, each in enumerate(records)
            ]
            await connection.execute(insert(budget_alerts), rows)
    sums = await read_sums(database, ["a", "b"], now)

    async def kept() -> tuple[list[str], list[str], set[str]]:
        async with database.read() as connection:
            records, alerts, days = [
                list((await connection.execute(select(column))).scalars())
                for column in (usage_records.c.id, budget_alerts.c.id, usage_days.c.day)
            ]
        return sorted(records), sorted(alerts), set(days)

    for days, numbers in ((0, "0123"), (60, "123"), (1, "23")):
        await UsageReports(database, recorder, retention_seconds=days * 24 * 3600).forget()
        ids = [f"{group}{number}" for group in "ab" for number in numbers]
        assert await kept() == (ids, ids, {Period.DAY.of(times[int(number)]) for number in numbers})
        assert await read_sums(database, ["a", "b"], now) == sums
    # Where nothing is old, nothing is written.
    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", None)
        await UsageReports(database, recorder, retention_seconds=24 * 3600).forget()


def test_usage_is_not_kept_for_ever_by_default() -> None:
    assert timedelta(seconds=ModelsSettings.model_fields["usage_retention_seconds"].default) == timedelta(days=400)
