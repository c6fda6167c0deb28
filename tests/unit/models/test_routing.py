"""Which models are asked, in which order, for how long, and what is told when none can answer."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import (
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.common.grpc.call import Call, current_call, enter_call
from services.models.domain.answer import Answer, Delta, FinishDelta, FinishReason, TextDelta, UsageDelta
from services.models.domain.model import Capabilities, Fallbacks, Model, ModelSpec, Provider
from services.models.domain.usage import Usage
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.routing import Routing

NO_FALLBACKS = Fallbacks()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTAGE = Unavailable("down", reason="UPSTREAM_UNAVAILABLE")
TOO_LONG = InvalidArgument("too long", reason="CONTEXT_WINDOW_EXCEEDED")
FILTERED = InvalidArgument("not this", reason="CONTENT_FILTERED")
TIMEOUT = 100.0


@pytest.fixture(autouse=True)
async def _call() -> None:
    enter_call(Call("1", "/m"))


class Models(Catalogue):
    """Models by name; a group sees those that are not of another one."""

    def __init__(self, **fallbacks: Fallbacks) -> None:
        super().__init__(None, 0)  # type: ignore[arg-type]
        self.models = {name: model(name, fallbacks[name]) for name in fallbacks}
        self.disabled: set[str] = set()

    async def find_enabled(self, group_id: str, name: str) -> Model:
        if name not in self.models or group_id != "sales":
            raise NotFound("none", reason="MODEL_NOT_FOUND")
        if name in self.disabled:
            raise FailedPrecondition("off", reason="MODEL_DISABLED")
        return self.models[name]


def model(name: str, fallbacks: Fallbacks = NO_FALLBACKS) -> Model:
    spec = ModelSpec(name, Provider.OPENAI, capabilities=Capabilities(chat=True), fallbacks=fallbacks)
    return Model(name, "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def outage(*names: str) -> Fallbacks:
    return Fallbacks(on_outage=names)


def answer(reason: FinishReason = FinishReason.STOP, text: str = "hello") -> Answer:
    return Answer(text, "", (), reason, Usage(1, 1), "upstream")


class Asked:
    """Answers by the model's name; keeps what was asked."""

    def __init__(self, **outcomes: CoxswainError | Answer) -> None:
        self.outcomes = outcomes
        self.names: list[str] = []
        self.answer_by: list[float | None] = []

    async def __call__(self, asked: Model, answer_by: float | None) -> Answer:
        self.names.append(asked.name)
        self.answer_by.append(answer_by)
        outcome = self.outcomes.get(asked.name, answer())
        if isinstance(outcome, CoxswainError):
            raise type(outcome)(outcome.message, reason=outcome.reason, metadata=outcome.metadata)
        return outcome


def fits(_: Model) -> None:
    pass


async def complete(models: Models, ask: Asked, fit: Callable[[Model], object] = fits) -> Answer:
    return await Routing(models, TIMEOUT).complete("sales", models.models["a"], fit, ask)


async def test_a_model_without_fallbacks_has_all_of_the_time() -> None:
    ask = Asked()
    assert (await complete(Models(a=Fallbacks()), ask)).answered_by == ""
    assert ask.answer_by == [None]


@pytest.mark.parametrize(
    "failure",
    [
        OUTAGE,
        DeadlineExceeded("late", reason="UPSTREAM_UNAVAILABLE"),
        Unavailable("no JSON", reason="UPSTREAM_BAD_RESPONSE"),
        ResourceExhausted("slow", reason="UPSTREAM_RATE_LIMITED"),
        ResourceExhausted("paid up", reason="UPSTREAM_QUOTA_EXHAUSTED"),
        ResourceExhausted("full", reason="UPSTREAM_SHARE_EXCEEDED"),
    ],
    ids=lambda failure: failure.reason,
)
async def test_outages_limits_and_quotas_let_others_answer_in_their_order(failure: CoxswainError) -> None:
    ask = Asked(a=failure, b=failure)
    assert (await complete(Models(a=outage("b", "c"), b=Fallbacks(), c=Fallbacks()), ask)).answered_by == "c"
    assert ask.names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "failure",
    [
        InvalidArgument("no", reason="UPSTREAM_REJECTED"),
        FailedPrecondition("no", reason="UPSTREAM_CREDENTIAL_REJECTED"),
        FailedPrecondition("no", reason="MODEL_LACKS_CAPABILITY"),
        ResourceExhausted("no", reason="BUDGET_EXCEEDED"),
        TOO_LONG,
        FILTERED,
    ],
    ids=lambda failure: failure.reason,
)
async def test_other_failures_ask_nobody_else(failure: CoxswainError) -> None:
    ask = Asked(a=failure)
    with pytest.raises(type(failure)) as raised:
        await complete(Models(a=outage("b"), b=Fallbacks()), ask)
    assert ask.names == ["a"]
    assert "fallbacks" not in raised.value.metadata


async def test_each_occasion_has_its_own_list() -> None:
    fallbacks = Fallbacks(on_outage=("o",), on_context_window=("w",), on_content_filter=("f",))
    models = Models(a=fallbacks, o=Fallbacks(), w=Fallbacks(), f=Fallbacks())
    for failure, expected in ((OUTAGE, "o"), (TOO_LONG, "w"), (FILTERED, "f")):
        assert (await complete(models, Asked(a=failure))).answered_by == expected


async def test_another_occasion_on_the_way_asks_the_first_models_list_for_that_one() -> None:
    models = Models(
        a=Fallbacks(on_outage=("b", "c"), on_context_window=("w",)), b=Fallbacks(), c=Fallbacks(), w=Fallbacks()
    )
    ask = Asked(a=OUTAGE, b=TOO_LONG)
    assert (await complete(models, ask)).answered_by == "w"
    assert ask.names == ["a", "b", "w"]


async def test_fallbacks_of_fallbacks_come_last_and_no_model_is_asked_twice() -> None:
    models = Models(a=outage("b", "c"), b=outage("a", "d", "c"), c=outage("b"), d=outage("a", "b", "c", "d"))
    ask = Asked(a=OUTAGE, b=OUTAGE, c=OUTAGE, d=OUTAGE)
    with pytest.raises(Unavailable) as raised:
        await complete(models, ask)
    assert ask.names == ["a", "b", "c", "d"]
    assert raised.value.message.startswith("down")
    assert raised.value.metadata["fallbacks"] == "b,c,d"


async def test_a_call_asks_eight_models_at_most() -> None:
    names = [f"m{number}" for number in range(20)]
    models = Models(a=outage(names[0]), **{name: outage(other) for name, other in itertools.pairwise(names)})
    ask = Asked(a=OUTAGE, **dict.fromkeys(names, OUTAGE))
    with pytest.raises(Unavailable):
        await complete(models, ask)
    assert len(ask.names) == 8


async def test_models_that_are_unknown_disabled_or_unable_are_passed_over() -> None:
    models = Models(a=outage("gone", "off", "unable", "b"), off=Fallbacks(), unable=Fallbacks(), b=Fallbacks())
    models.disabled.add("off")

    def fit(candidate: Model) -> None:
        if candidate.name == "unable":
            raise FailedPrecondition("no tools", reason="MODEL_LACKS_CAPABILITY")

    ask = Asked(a=OUTAGE)
    assert (await complete(models, ask, fit)).answered_by == "b"
    assert ask.names == ["a", "b"]


async def test_a_fallback_that_cannot_help_for_a_reason_of_its_own_gives_way_to_the_next() -> None:
    ask = Asked(a=OUTAGE, b=FailedPrecondition("bad key", reason="UPSTREAM_CREDENTIAL_REJECTED"))
    models = Models(a=outage("b", "c"), b=Fallbacks(), c=Fallbacks())
    assert (await complete(models, ask)).answered_by == "c"
    ask.outcomes["c"] = OUTAGE
    with pytest.raises(Unavailable, match="down"):
        await complete(models, ask)


async def test_each_model_gets_half_of_what_is_left_and_the_last_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = 1000.0
    monkeypatch.setattr(loop, "time", lambda: now)
    ask = Asked(a=OUTAGE, b=OUTAGE)
    await complete(Models(a=outage("b", "c"), b=Fallbacks(), c=Fallbacks()), ask)
    assert ask.answer_by == [now + TIMEOUT / 2, now + TIMEOUT / 2, None]
    assert current_call().deadline == now + TIMEOUT
    # The caller's own deadline counts where there is one.
    enter_call(Call("1", "/m", deadline=now + 10))
    ask = Asked(a=OUTAGE)
    await complete(Models(a=outage("b"), b=Fallbacks()), ask)
    assert ask.answer_by == [now + 5, None]
    # Fallbacks that cannot be asked take no time from the model itself.
    ask = Asked()
    await complete(Models(a=outage("gone")), ask)
    assert ask.answer_by == [None]


async def test_nobody_is_asked_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = [1000.0]
    monkeypatch.setattr(loop, "time", lambda: now[0])

    class Slow(Asked):
        async def __call__(self, asked: Model, answer_by: float | None) -> Answer:
            now[0] += TIMEOUT
            return await super().__call__(asked, answer_by)

    ask = Slow(a=OUTAGE)
    with pytest.raises(DeadlineExceeded, match="down"):
        await complete(Models(a=outage("b"), b=Fallbacks()), ask)
    assert ask.names == ["a"]
    # The refusal of an upstream says more than that the time is over.
    with pytest.raises(InvalidArgument):
        await complete(Models(a=Fallbacks(on_context_window=("b",)), b=Fallbacks()), Slow(a=TOO_LONG))


async def test_a_call_is_late_when_a_fallback_had_the_rest_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = [1000.0]
    monkeypatch.setattr(loop, "time", lambda: now[0])

    class Silent(Asked):
        async def __call__(self, asked: Model, answer_by: float | None) -> Answer:
            now[0] = answer_by or 1000.0 + TIMEOUT
            return await super().__call__(asked, answer_by)

    ask = Silent(a=OUTAGE, b=DeadlineExceeded("late", reason="UPSTREAM_UNAVAILABLE"))
    with pytest.raises(DeadlineExceeded) as caught:
        await complete(Models(a=outage("b"), b=Fallbacks()), ask)
    assert caught.value.message == "down; no fallback could answer either (b)"
    assert ask.names == ["a", "b"]


async def test_an_answer_that_was_withheld_lets_others_answer_and_stands_when_they_cannot() -> None:
    withheld = answer(FinishReason.CONTENT_FILTER, "")
    models = Models(a=Fallbacks(on_content_filter=("b", "c")), b=Fallbacks(), c=Fallbacks())
    ask = Asked(a=withheld, b=OUTAGE)
    assert (await complete(models, ask)).answered_by == "c"
    ask = Asked(a=withheld, b=OUTAGE, c=answer(FinishReason.CONTENT_FILTER, "other"))
    assert await complete(models, ask) == withheld
    ask = Asked(a=withheld)
    assert await complete(Models(a=outage("b"), b=Fallbacks()), ask) == withheld


USAGE = UsageDelta(Usage(1, 1))


def finish(reason: FinishReason = FinishReason.STOP) -> FinishDelta:
    return FinishDelta(reason, "upstream")


async def stream(models: Models, asked: list[str], **streams: list[Any]) -> list[Delta]:
    async def ask(candidate: Model, _: float | None) -> AsyncGenerator[Delta, None]:
        asked.append(candidate.name)
        for item in streams[candidate.name]:
            if isinstance(item, Exception):
                raise item
            yield item

    return [delta async for delta in Routing(models, TIMEOUT).stream("sales", models.models["a"], fits, ask)]


async def test_a_stream_changes_the_model_until_its_first_part_and_names_who_answered() -> None:
    models = Models(a=outage("b"), b=Fallbacks())
    asked: list[str] = []
    deltas = await stream(models, asked, a=[OUTAGE], b=[TextDelta("hi"), USAGE, finish()])
    assert deltas == [TextDelta("hi"), USAGE, FinishDelta(FinishReason.STOP, "upstream", answered_by="b")]
    del asked[:]
    with pytest.raises(Unavailable):
        await stream(models, asked, a=[TextDelta("hi"), OUTAGE], b=[finish()])
    assert asked == ["a"]


async def test_an_empty_answer_is_an_answer() -> None:
    asked: list[str] = []
    assert await stream(Models(a=outage("b"), b=Fallbacks()), asked, a=[USAGE, finish()]) == [USAGE, finish()]
    assert asked == ["a"]


async def test_a_stream_that_was_withheld_as_a_whole_lets_others_answer_and_stands_when_they_cannot() -> None:
    models = Models(a=Fallbacks(on_content_filter=("b",)), b=Fallbacks())
    withheld = [USAGE, finish(FinishReason.CONTENT_FILTER)]
    asked: list[str] = []
    deltas = await stream(models, asked, a=withheld, b=[TextDelta("hi"), USAGE, finish()])
    assert [type(delta) for delta in deltas] == [TextDelta, UsageDelta, FinishDelta]
    assert asked == ["a", "b"]
    assert await stream(models, asked, a=withheld, b=[OUTAGE]) == withheld
    # Not what was withheld in the middle.
    del asked[:]
    begun = [TextDelta("hi"), *withheld]
    assert await stream(models, asked, a=begun, b=[finish()]) == begun
    assert asked == ["a"]


async def test_a_stream_that_nobody_answers_fails_as_the_first_model_did() -> None:
    with pytest.raises(Unavailable) as raised:
        await stream(Models(a=outage("b"), b=Fallbacks()), [], a=[OUTAGE], b=[TOO_LONG])
    assert raised.value.metadata["fallbacks"] == "b"
