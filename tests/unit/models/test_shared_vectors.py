"""Vectors that are remembered, and that calls share."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from services.common.errors import CoxswainError, DeadlineExceeded, InvalidArgument, Unavailable
from services.models.domain.answer import Embeddings
from services.models.domain.usage import Usage
from services.models.providers.base import TakeBatch
from services.models.usecases.shared_vectors import SharedVectors
from services.models.usecases.vector_memory import VectorKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def keys(texts: Sequence[str], group: str = "sales") -> list[VectorKey]:
    return [VectorKey(group, "1", NOW, 0, text.encode()) for text in texts]


class Upstream:
    """Embeds a text as its length, when it is let; a text "bad" is refused."""

    def __init__(self, *, held: bool = False) -> None:
        self.calls: list[list[str]] = []
        self.cancelled: list[str] = []
        self.failure: CoxswainError | None = None
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    async def fetch(self, texts: Sequence[str], take: TakeBatch) -> None:
        self.calls.append(list(texts))
        failure = self.failure
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.extend(texts)
            raise
        if failure is not None:
            raise failure
        for position, text in enumerate(texts):
            if text == "bad":
                raise InvalidArgument.field(f"texts[{position}]", "must contain text")
            take([position], Embeddings(np.array([[float(len(text))]], dtype=np.float32), Usage(1)))


async def ask(
    vectors: SharedVectors, upstream: Upstream, *texts: str, caller: str = "ann", group: str = "sales"
) -> list[float]:
    found = await vectors.get(caller, keys(texts, group), texts, upstream.fetch)
    return [float(vector[0]) for vector in found]


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_text_is_fetched_once_within_a_call_and_by_later_calls() -> None:
    vectors, upstream = SharedVectors(1_000_000, 60), Upstream()
    assert await ask(vectors, upstream, "a", "bb", "a", "bb") == [1, 2, 1, 2]
    assert await ask(vectors, upstream, "bb", "ccc") == [2, 3]
    assert upstream.calls == [["a", "bb"], ["ccc"]]


async def test_groups_never_share() -> None:
    vectors, upstream = SharedVectors(1_000_000, 60), Upstream(held=True)
    asked = [asyncio.create_task(ask(vectors, upstream, "a", group=group)) for group in ("sales", "legal")]
    await until_idle()
    assert len(upstream.calls) == 2
    upstream.go.set()
    await asyncio.gather(*asked)
    await ask(vectors, upstream, "a", group="third")
    assert len(upstream.calls) == 3


async def test_calls_at_once_share_what_is_on_its_way() -> None:
    vectors, upstream = SharedVectors(0, 60), Upstream(held=True)
    asked = [asyncio.create_task(ask(vectors, upstream, "a", "bb", caller=str(number))) for number in range(32)]
    asked.append(asyncio.create_task(ask(vectors, upstream, "bb", "ccc")))
    await until_idle()
    upstream.go.set()
    assert await asyncio.gather(*asked) == [*[[1, 2]] * 32, [2, 3]]
    assert upstream.calls == [["a", "bb"], ["ccc"]]


async def test_a_cancelled_call_does_not_end_what_others_wait_for_and_the_last_one_does() -> None:
    vectors, upstream = SharedVectors(1_000_000, 60), Upstream(held=True)
    first, second, third = [asyncio.create_task(ask(vectors, upstream, "a")) for _ in range(3)]
    await until_idle()
    first.cancel()
    second.cancel()
    await until_idle()
    assert not upstream.cancelled
    third.cancel()
    await until_idle()
    assert upstream.cancelled == ["a"]
    upstream.go.set()
    assert await ask(vectors, upstream, "a") == [1]
    assert len(upstream.calls) == 2


async def test_a_failure_reaches_every_call_of_its_caller_and_is_not_remembered() -> None:
    vectors, upstream = SharedVectors(1_000_000, 60), Upstream(held=True)
    upstream.failure = Unavailable("away")
    asked = [asyncio.create_task(ask(vectors, upstream, "a")) for _ in range(4)]
    await until_idle()
    upstream.go.set()
    failures = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["away"] * 4
    assert len({id(failure) for failure in failures}) == 4
    assert len(upstream.calls) == 1
    upstream.failure = None
    assert await ask(vectors, upstream, "a") == [1]


async def test_another_caller_or_one_with_more_time_tries_itself_after_a_failure() -> None:
    for failure, caller in ((Unavailable("away"), "bob"), (DeadlineExceeded("late"), "ann")):
        vectors, upstream = SharedVectors(1_000_000, 60), Upstream(held=True)
        upstream.failure = failure
        first = asyncio.create_task(ask(vectors, upstream, "a"))
        await until_idle()
        upstream.failure = None
        second = asyncio.create_task(ask(vectors, upstream, "a", caller=caller))
        await until_idle()
        upstream.go.set()
        with pytest.raises(type(failure)):
            await first
        assert await second == [1]


async def test_a_text_at_fault_fails_only_those_who_sent_it_at_their_own_position() -> None:
    vectors, upstream = SharedVectors(1_000_000, 60), Upstream(held=True)
    asked = [
        asyncio.create_task(ask(vectors, upstream, *texts))
        for texts in (["a", "bad"], ["a", "a", "a", "bad"], ["bb", "a"])
    ]
    await until_idle()
    upstream.go.set()
    first, second, good = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(first, InvalidArgument)
    assert [found.field for found in first.violations] == ["texts[1]"]
    assert isinstance(second, InvalidArgument)
    assert [found.field for found in second.violations] == ["texts[3]"]
    assert "texts[3]" in second.message
    assert good == [2, 1]


async def test_what_came_before_a_failure_is_kept() -> None:
    vectors, upstream = SharedVectors(1_000_000, 60), Upstream()
    with pytest.raises(InvalidArgument):
        await ask(vectors, upstream, "a", "bb", "bad")
    await ask(vectors, upstream, "bb", "a")
    assert len(upstream.calls) == 1


async def test_memory_is_bounded_in_bytes_and_the_oldest_leave_first() -> None:
    vectors, upstream = SharedVectors(2_000, 60), Upstream()
    for text in ("a", "bb", "ccc"):
        await ask(vectors, upstream, text)
    await ask(vectors, upstream, "ccc", "bb")
    assert len(upstream.calls) == 3
    await ask(vectors, upstream, "a")
    assert len(upstream.calls) == 4
