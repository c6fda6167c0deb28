"""Running sums stay exact while records are stored and sums are read again, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.common.ids import new_id
from services.models.domain.budget import WHOLE_GROUP, Measure, Period, Scope, Spending, Sums
from services.models.domain.usage import Usage, UsageRecord
from services.models.repositories import usage
from services.models.repositories.usage import UsageRepository
from services.models.usecases import ledger as ledger_module
from services.models.usecases.ledger import Ledger
from services.models.usecases.usage_recorder import UsageRecorder
from tests.support.service_tables import make_service_tables


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_service_tables("models", database_url)
    database = Database(database_url, "models")
    yield database
    await database.close()


@pytest.fixture
async def recorder(database: Database) -> AsyncIterator[UsageRecorder]:
    recorder = UsageRecorder(database)
    recorder.start()
    yield recorder
    await recorder.close(10)


def record(group: str = "g", model: str = "m", subject: str = "s", tokens: int = 1) -> UsageRecord:
    return UsageRecord(new_id(), group, model, "", utc_now(), Usage(tokens, cost=0.25), subject)


def tokens(spending: Spending) -> float:
    return spending.used(Measure.TOKENS, Period.MONTH, utc_now())


async def test_a_sum_is_exact_however_reading_and_storing_fall_together(
    database: Database, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = recorder._store

    async def stored_some_time_ago(records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        await store(records, maybe_stored=maybe_stored)
        # For this long they are stored, and wait to be.
        await asyncio.sleep(0.01)

    monkeypatch.setattr(recorder, "_store", stored_some_time_ago)
    ledger = Ledger(database, recorder)
    recorded = 0
    [spending] = await ledger.spending("g", [WHOLE_GROUP])

    async def record_many() -> None:
        nonlocal recorded
        for number in range(400):
            each = record(tokens=number)
            recorder.record(each)
            ledger.add(each)
            recorded += number
            assert tokens(spending) == recorded
            if number % 7 == 0:
                await asyncio.sleep(0.002)

    async def read_many() -> None:
        while True:
            await ledger.refresh()
            assert tokens(spending) == recorded

    reading = asyncio.ensure_future(read_many())
    await record_many()
    assert await recorder.flush(60)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await ledger.refresh()
    assert tokens(spending) == recorded == sum(range(400))
    assert spending.used(Measure.COST, Period.MONTH, utc_now()) == 100.0


async def test_scopes_are_read_from_what_is_stored_and_from_what_waits(
    database: Database, recorder: UsageRecorder
) -> None:
    ledger = Ledger(database, recorder)
    for model in ("m", "n"):
        for subject in ("s", "t"):
            recorder.record(record(model=model, subject=subject))
    assert await recorder.flush(60)
    recorder.record(record(tokens=10))
    recorder.record(record(group="other", tokens=100))
    scopes = [WHOLE_GROUP, Scope("m"), Scope(subject="s"), Scope("m", "s"), Scope("m", "u")]
    assert [tokens(found) for found in await ledger.spending("g", scopes)] == [14, 12, 12, 11, 0]


async def test_reservations_outlast_reading_and_idleness(
    database: Database, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_IDLE_SECONDS", -1.0)
    ledger = Ledger(database, recorder)
    [spending] = await ledger.spending("g", [WHOLE_GROUP])
    spending.reserve(Sums(1.0, 5))
    await ledger.refresh()
    assert (await ledger.spending("g", [WHOLE_GROUP]))[0] is spending
    assert spending.reserved(Measure.TOKENS) == 5
    spending.release(Sums(1.0, 5))
    await ledger.refresh()
    each = record()
    assert not list(ledger.add(each))
    recorder.record(each)
    assert tokens((await ledger.spending("g", [WHOLE_GROUP]))[0]) == 1


async def test_reading_does_not_wait_for_a_writer_that_hangs(
    database: Database, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    add = UsageRepository.add

    async def hanging(self: UsageRepository, records: list[UsageRecord], *, maybe_stored: bool) -> None:
        await release.wait()
        await add(self, records, maybe_stored=maybe_stored)

    monkeypatch.setattr(UsageRepository, "add", hanging)
    recorder.record(record(tokens=3))
    ledger = Ledger(database, recorder)
    async with recorder.standing_still(0.01):
        pass
    async with asyncio.timeout(60):
        [spending] = await ledger.spending("g", [WHOLE_GROUP])
    assert tokens(spending) == 3
    release.set()
    assert await recorder.flush(60)


async def test_calls_of_another_month_are_left_out(database: Database, recorder: UsageRecorder) -> None:
    old = record(tokens=50)
    old = UsageRecord(old.id, old.group_id, old.model, "", utc_now() - timedelta(days=40), old.usage, old.subject)
    recorder.record(old)
    recorder.record(record(tokens=2))
    assert await recorder.flush(60)
    assert tokens((await Ledger(database, recorder).spending("g", [WHOLE_GROUP]))[0]) == 2


async def test_scopes_that_are_only_looked_at_are_not_kept(database: Database, recorder: UsageRecorder) -> None:
    ledger = Ledger(database, recorder)
    await ledger.spending("g", [WHOLE_GROUP])
    used = record()
    recorder.record(used)
    ledger.add(used)
    assert tokens(await ledger.read("g", Scope("m"))) == 1
    assert tokens(await ledger.read("g", Scope("other"))) == 0
    assert tokens(await ledger.read("elsewhere", WHOLE_GROUP)) == 0
    assert [(group_id, scope) for group_id, scope, _ in ledger.known()] == [("g", WHOLE_GROUP)]
    # What limits need is the same object before and after.
    [spending] = await ledger.spending("g", [WHOLE_GROUP])
    assert await ledger.read("g", WHOLE_GROUP) is spending
    assert tokens(spending) == 1


async def test_many_questions_at_once_are_few_readings_that_miss_nothing(
    database: Database, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[int] = []

    async def read_sums(database: Database, group_ids: Sequence[str], moment: datetime) -> Any:
        readings.append(len(group_ids))
        return await usage.read_sums(database, group_ids, moment)

    monkeypatch.setattr(ledger_module, "read_sums", read_sums)
    ledger = Ledger(database, recorder)
    asked = []
    for number in range(1, 501):
        each = record(group=f"g{number % 3}")
        recorder.record(each)
        ledger.add(each)
        asked.append((number, asyncio.ensure_future(ledger.read(f"g{number % 3}", WHOLE_GROUP))))
        if number % 100 == 0:
            await asyncio.sleep(0)
    for number, answer in asked:
        assert tokens(await answer) >= (number + 2) // 3
    assert 1 <= len(readings) <= 7
    assert max(readings) == 3
    await ledger.close()


async def test_a_question_that_is_given_up_takes_no_answer_from_others(
    database: Database, recorder: UsageRecorder
) -> None:
    ledger = Ledger(database, recorder)
    recorder.record(record())
    first, second = (asyncio.ensure_future(ledger.read("g", WHOLE_GROUP)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert tokens(await second) == 1
    with pytest.raises(asyncio.CancelledError):
        await first
    await ledger.close()


async def test_a_database_that_is_away_is_told_to_all_who_ask(
    database: Database, recorder: UsageRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Unavailable("away")

    ledger = Ledger(database, recorder)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "read_sums", fail)
        answers = await asyncio.gather(*(ledger.read("g", WHOLE_GROUP) for _ in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["away"] * 3
    assert len({id(answer) for answer in answers}) == 3
    assert tokens(await ledger.read("g", WHOLE_GROUP)) == 0
    await ledger.close()
