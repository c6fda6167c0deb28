"""What the use cases keep in mind between calls, and what they never do."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition, NotFound
from services.common.identity.credentials import OutboundCredential
from services.models.domain.model import Capabilities, Model, ModelSpec, Provider
from services.models.domain.tokens import estimate_tokens
from services.models.domain.usage import Usage, UsageRecord
from services.models.providers.fault_reading import read_fault
from services.models.providers.upstream_errors import retry_after_seconds, upstream_failure
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.usage_recorder import UsageRecorder

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def model(name: str, *, enabled: bool = True) -> Model:
    spec = ModelSpec(name, Provider.OPENAI, capabilities=Capabilities(chat=True))
    return Model("1", "", spec, enabled=enabled, created_at=NOW, updated_at=NOW)


class Rows(Catalogue):
    """Models by group and name instead of a database, slow on demand."""

    def __init__(self, max_age: float, **models: Model) -> None:
        super().__init__(None, max_age)  # type: ignore[arg-type]
        self.models = {tuple(key.split("__")): value for key, value in models.items()}
        self.reads = 0
        self.gate: asyncio.Event | None = None

    async def _read(self, group_id: str, name: str) -> Model:
        self.reads += 1
        found = self.models.get((group_id, name))
        if self.gate is not None:
            await self.gate.wait()
        if found is None:
            raise NotFound("none")
        return found


async def test_a_model_is_remembered_for_its_group_alone() -> None:
    models = Rows(60, sales__m=model("m"))
    for _ in range(3):
        await models.find("sales", "m")
    assert models.reads == 1
    with pytest.raises(NotFound):
        await models.find("legal", "m")


async def test_nothing_is_remembered_where_others_change_rows() -> None:
    models = Rows(0, sales__m=model("m"))
    await models.find("sales", "m")
    models.models["sales", "m"] = model("m", enabled=False)
    with pytest.raises(FailedPrecondition):
        await models.find_enabled("sales", "m")


async def test_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    models = Rows(60, sales__m=model("m"))
    models.gate = asyncio.Event()
    reading = asyncio.ensure_future(models.find("sales", "m"))
    await asyncio.sleep(0)
    models.models["sales", "m"] = model("m", enabled=False)
    models.forget("sales", "m")
    models.gate.set()
    await reading
    with pytest.raises(FailedPrecondition):
        await models.find_enabled("sales", "m")


def record(number: int) -> UsageRecord:
    return UsageRecord(str(number), "sales", "m", "", NOW, Usage(1, 1))


class Recorder(UsageRecorder):
    """Keeps records in a list; fails as often as it is told to, after having stored them or before."""

    def __init__(self, *failures: str) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.failures = list(failures)
        self.stored: list[str] = []

    async def _store(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        await asyncio.sleep(0)
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise OSError("the database is away")
        ids = [r.id for r in records if not (maybe_stored and r.id in self.stored)]
        self.stored += ids
        if failure == "after":
            raise OSError("the connection was lost after the commit")


@pytest.mark.parametrize("failures", [(), ("before",), ("after",), ("before", "after", "before")])
async def test_every_record_is_stored_once_whatever_fails_on_the_way(failures: tuple[str, ...]) -> None:
    recorder = Recorder(*failures)
    recorder.start()
    for number in range(1200):
        recorder.record(record(number))
        if number % 300 == 0:
            await asyncio.sleep(0)
    assert await recorder.flush(60)
    assert recorder.stored == [str(number) for number in range(1200)]
    await recorder.close(1)


async def test_closing_stores_what_is_left_and_gives_up_on_a_database_that_stays_away() -> None:
    recorder = Recorder()
    recorder.start()
    recorder.record(record(1))
    await recorder.close(5)
    assert recorder.stored == ["1"]
    away = Recorder(*["before"] * 1000)
    away.start()
    away.record(record(1))
    await away.close(0.05)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("", None), ("3", 3.0), ("0.5", 0.5), ("-4", 0.0), ("soon", None), ("nan", None), ("inf", None)],
)
def test_retry_after_is_read_as_a_number(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds({} if value is None else {"Retry-After": value}) == seconds


def test_retry_after_may_come_in_milliseconds_and_is_bounded() -> None:
    assert retry_after_seconds({"retry-after-ms": "2500", "Retry-After": "9"}) == 2.5
    longest = retry_after_seconds({"Retry-After": "1e9"})
    assert [retry_after_seconds({"Retry-After": value}) for value in ("1e308", "1e400")] == [longest] * 2


def test_retry_after_is_read_as_a_date() -> None:
    past = format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)
    future = format_datetime(datetime(2200, 1, 1, tzinfo=UTC), usegmt=True)
    assert retry_after_seconds({"Retry-After": past}) == 0.0
    assert (retry_after_seconds({"Retry-After": future}) or 0) > 1e6


KEY = "dapi0123456789abcdef"


@given(st.text(max_size=40), st.integers(0, len(KEY) - 8), st.integers(8, len(KEY)), st.text(max_size=40))
def test_no_piece_of_a_key_is_ever_quoted(before: str, start: int, length: int, after: str) -> None:
    piece = KEY[start : start + length]
    document: dict[str, Any] = {"error": {"message": f"{before}{piece}{after}"}}
    for status in (400, 404, 422):
        failure = upstream_failure(model("m"), read_fault(status, document), OutboundCredential(KEY))
        assert piece not in failure.message


def test_a_users_own_token_that_is_refused_is_the_users_affair() -> None:
    failure = upstream_failure(model("m"), read_fault(401, None), OutboundCredential("t", on_behalf_of_user=True))
    assert (failure.code, failure.reason) == ("UNAUTHENTICATED", "UPSTREAM_CREDENTIAL_REJECTED")


@pytest.mark.parametrize(
    ("provider", "base_url", "hint"),
    [
        (Provider.OLLAMA, "", "OLLAMA_BASE_URL"),
        (Provider.VLLM, "", "VLLM_BASE_URL"),
        (Provider.VLLM, "https://example.com/v1", "check upstream_model and base_url"),
        (Provider.OPENAI, "", "check upstream_model and base_url"),
    ],
)
def test_who_asks_for_a_model_that_is_not_there_learns_where_to_put_it(
    provider: Provider, base_url: str, hint: str
) -> None:
    asked = model("m")
    asked = replace(asked, spec=replace(asked.spec, provider=provider, base_url=base_url))
    failure = upstream_failure(asked, read_fault(404, {"error": {"message": "model not found", "type": "not_found"}}))
    assert hint in failure.message


@given(st.text(max_size=200))
def test_an_estimate_of_tokens_is_never_more_than_the_characters_nor_none_for_some(text: str) -> None:
    assert (1 if text else 0) <= estimate_tokens(text) <= len(text)
