"""What a cache promises: one load for all who wait, a bound, and nothing after its time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.cache import AsyncCache, Entry, ExpiringCache
from services.common.errors import NotFound, Unauthenticated


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answer(value: str) -> Callable[[], Awaitable[str]]:
    async def load() -> str:
        await asyncio.sleep(0)
        return value

    return load


async def never() -> str:
    raise AssertionError("nothing was to be loaded")


async def test_calls_that_come_together_share_one_load() -> None:
    loads = 0

    async def load() -> str:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return "value"

    cache = AsyncCache[str, str](10, 60)
    assert await asyncio.gather(*(cache.get("key", load) for _ in range(5))) == ["value"] * 5
    assert await cache.get("key", never) == "value"
    assert loads == 1


async def test_a_cancelled_caller_does_not_end_the_load_of_the_others() -> None:
    gate = asyncio.Event()

    async def load() -> str:
        await gate.wait()
        return "value"

    cache = AsyncCache[str, str](10, 60)
    first, second = (asyncio.create_task(cache.get("key", load)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await second == "value"
    assert first.cancelled()
    assert cache.peek("key") == "value"


async def test_a_value_is_kept_for_its_own_time_and_not_longer() -> None:
    clock = Clock()
    cache = AsyncCache[str, int](10, float, clock=clock)
    cache.put("short", 5)
    cache.put("long", 50)
    clock.now = 4
    assert cache.remaining("short") == 1
    clock.now = 5
    assert cache.peek("short") is None
    assert cache.remaining("short") == 0
    assert cache.peek("long") == 50


async def test_what_has_no_time_left_is_returned_and_not_kept() -> None:
    cache = AsyncCache[str, str](10, 0)
    assert await cache.get("key", answer("value")) == "value"
    assert cache.peek("key") is None
    cache = AsyncCache[str, str](10, -1)
    assert await cache.get("key", answer("value")) == "value"
    assert len(cache) == 0


async def test_a_refusal_is_remembered_for_its_time_and_raised_as_a_copy() -> None:
    clock = Clock()

    async def refuse() -> str:
        raise Unauthenticated("no", reason="CREDENTIAL_REJECTED", metadata={"link": "x"})

    cache = AsyncCache[str, str](10, 60, clock=clock, refused=Unauthenticated, refused_seconds=5)
    with pytest.raises(Unauthenticated):
        await cache.get("key", refuse)
    found = []
    for _ in range(2):
        with pytest.raises(Unauthenticated) as refused:
            await cache.get("key", never)
        found.append(refused.value)
    assert found[0] is not found[1]
    assert {(error.message, error.reason, error.metadata["link"]) for error in found} == {
        ("no", "CREDENTIAL_REJECTED", "x")
    }
    clock.now = 5
    assert await cache.get("key", answer("value")) == "value"


async def test_other_failures_are_not_remembered() -> None:
    async def fail() -> str:
        raise NotFound("gone")

    cache = AsyncCache[str, str](10, 60, refused=Unauthenticated, refused_seconds=5)
    with pytest.raises(NotFound):
        await cache.get("key", fail)
    assert await cache.get("key", answer("value")) == "value"


async def test_a_refusal_ends_the_value_that_was_good_before() -> None:
    async def refuse() -> str:
        raise Unauthenticated("withdrawn")

    cache = AsyncCache[str, str](10, 60, refused=Unauthenticated, refused_seconds=5)
    cache.put("key", "value")
    with pytest.raises(Unauthenticated):
        await cache.load("key", refuse)
    with pytest.raises(Unauthenticated):
        await cache.get("key", never)


async def test_made_up_keys_that_are_refused_push_no_value_out() -> None:
    async def refuse() -> str:
        raise Unauthenticated("no")

    cache = AsyncCache[str, str](10, 60, refused=Unauthenticated, refused_seconds=60)
    cache.put("key", "value")
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await cache.get(f"made up {number}", refuse)
    assert cache.peek("key") == "value"
    assert len(cache) == 11


async def test_what_is_forgotten_while_it_loads_is_loaded_again() -> None:
    gate = asyncio.Event()

    async def load_old() -> str:
        await gate.wait()
        return "old"

    cache = AsyncCache[str, str](10, 60)
    waiting = asyncio.create_task(cache.get("key", load_old))
    await asyncio.sleep(0)
    cache.forget("key")
    assert await cache.get("key", answer("new")) == "new"
    gate.set()
    assert await waiting == "old"
    assert cache.peek("key") == "new"


async def test_close_ends_every_load() -> None:
    cache = AsyncCache[str, str](10, 60)
    waiting = asyncio.create_task(cache.get("key", asyncio.Future[str]))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@given(
    size=st.integers(1, 5),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "refuse", "forget", "wait", "peek"]),
            st.integers(0, 8),
            st.floats(0.01, 10, allow_nan=False),
        ),
        max_size=60,
    ),
)
def test_a_cache_never_outgrows_its_size_nor_shows_what_expired(size: int, steps: list[tuple[str, int, float]]) -> None:
    clock = Clock()
    cache = AsyncCache[int, float](size, lambda value: value, clock=clock, refused=NotFound, refused_seconds=3)
    until: dict[int, float] = {}

    async def play() -> None:
        for action, key, seconds in steps:
            if action == "put":
                cache.put(key, seconds)
                until[key] = clock.now + seconds
            elif action == "forget":
                cache.forget(key)
                until.pop(key, None)
            elif action == "wait":
                clock.now += seconds
            elif action == "refuse":
                await asyncio.gather(cache.load(key, refuse), return_exceptions=True)
                until.pop(key, None)
            assert len(cache) <= 2 * size
            if cache.peek(key) is not None:
                assert clock.now < until[key]
                assert cache.remaining(key) == pytest.approx(until[key] - clock.now)
            else:
                assert cache.remaining(key) == 0
            if action == "put":
                assert cache.peek(key) == seconds

    async def refuse() -> float:
        raise NotFound("no")

    asyncio.run(play())


def test_an_expiring_cache_keeps_each_value_until_its_own_time() -> None:
    clock = Clock()
    cache = ExpiringCache[str, int | None](2, clock)
    cache.put("short", 1, 5)
    cache.put("long", None, 10)
    assert (cache.get("short"), cache.entry("long")) == (1, Entry(None, 10))
    clock.now = 5
    assert cache.entry("short") is None
    cache.put("late", 3, 5)
    assert cache.entry("late") is None
    assert cache.entry("long") == Entry(None, 10)
    cache.forget("long")
    cache.forget("long")
    assert cache.entry("long") is None


async def test_what_is_chosen_is_forgotten_loaded_or_loading() -> None:
    cache = AsyncCache[tuple[str, int], str](10, 60)
    gate = asyncio.Event()

    async def load() -> str:
        await gate.wait()
        return "old"

    cache.put(("a", 1), "value")
    cache.put(("b", 1), "value")
    waiting = asyncio.create_task(cache.get(("a", 2), load))
    await asyncio.sleep(0)
    cache.forget_where(lambda key: key[0] == "a")
    gate.set()
    assert await waiting == "old"
    assert [cache.peek(key) for key in (("a", 1), ("a", 2), ("b", 1))] == [None, None, "value"]


def test_values_that_are_weighed_are_bounded_together_and_one_that_is_too_heavy_is_not_kept() -> None:
    clock = Clock()
    cache = ExpiringCache[str, bytes](10, clock, len)
    cache.put("a", b"1234", 5)
    cache.put("b", b"1234", 5)
    cache.put("a", b"12", 5)
    cache.put("c", b"1234", 5)
    assert [cache.get(key) for key in "abc"] == [b"12", b"1234", b"1234"]
    cache.put("d", b"1", 5)
    assert len(cache) == 3
    cache.put("c", b"12345678901", 5)
    assert cache.get("c") is None
