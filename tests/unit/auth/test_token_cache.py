"""Issued tokens: asked for once, renewed early, refused briefly."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from services.auth.chains.link import Answer
from services.auth.chains.token_cache import IssuedToken, NoTokenError, TokenCache
from services.common.errors import Unavailable
from tests.support.waiting import until


class Issuer:
    """Issues numbered tokens of an hour, by a clock that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.asked = 0
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.answered = asyncio.Condition()

    def clock(self) -> datetime:
        return self.now

    async def issue(self) -> IssuedToken:
        self.asked += 1
        number = self.asked
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return IssuedToken(f"token-{number}", self.now + timedelta(hours=1))


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def cache(issuer: Issuer) -> TokenCache[str]:
    return TokenCache(refused=timedelta(seconds=5), clock=issuer.clock)


async def test_all_who_wait_share_one_request(cache: TokenCache[str], issuer: Issuer) -> None:
    tokens = await asyncio.gather(*(cache.get("a", issuer.issue) for _ in range(50)))
    assert {token.token for token in tokens} == {"token-1"}
    assert issuer.asked == 1


async def test_keys_never_share_a_token(cache: TokenCache[str], issuer: Issuer) -> None:
    assert (await cache.get("a", issuer.issue)).token != (await cache.get("b", issuer.issue)).token


async def test_a_token_is_renewed_in_the_background_while_it_is_still_used(
    cache: TokenCache[str], issuer: Issuer
) -> None:
    await cache.get("a", issuer.issue)
    issuer.now += timedelta(minutes=39)
    assert (await cache.get("a", issuer.issue)).token == "token-1"
    assert issuer.asked == 1
    issuer.now += timedelta(minutes=2)
    assert (await cache.get("a", issuer.issue)).token == "token-1"
    await until(lambda: issuer.asked == 2)
    await until(lambda: not cache._tokens._loads)
    assert (await cache.get("a", issuer.issue)).token == "token-2"


async def test_a_token_that_is_about_to_expire_is_not_used(cache: TokenCache[str], issuer: Issuer) -> None:
    await cache.get("a", issuer.issue)
    issuer.now += timedelta(minutes=59, seconds=21)
    assert (await cache.get("a", issuer.issue)).token == "token-2"


async def test_an_outage_during_renewal_leaves_the_token_in_use(cache: TokenCache[str], issuer: Issuer) -> None:
    await cache.get("a", issuer.issue)
    issuer.now += timedelta(minutes=45)
    issuer.failure = Unavailable("down")
    assert (await cache.get("a", issuer.issue)).token == "token-1"
    await until(lambda: issuer.asked == 2 and not cache._tokens._loads)
    assert (await cache.get("a", issuer.issue)).token == "token-1"
    # Not asked again at once.
    assert issuer.asked == 2
    issuer.now += timedelta(minutes=14, seconds=30)
    with pytest.raises(Unavailable):
        await cache.get("a", issuer.issue)


async def test_a_refusal_is_remembered_for_a_moment_and_ends_the_token(cache: TokenCache[str], issuer: Issuer) -> None:
    await cache.get("a", issuer.issue)
    issuer.now += timedelta(minutes=45)
    issuer.failure = NoTokenError(Answer.rejected("withdrawn"))
    await cache.get("a", issuer.issue)
    await until(lambda: issuer.asked == 2 and not cache._tokens._loads)
    for _ in range(3):
        with pytest.raises(NoTokenError) as refusal:
            await cache.get("a", issuer.issue)
        assert refusal.value.answer.detail == "withdrawn"
    assert issuer.asked == 2
    issuer.now += timedelta(seconds=6)
    issuer.failure = None
    assert (await cache.get("a", issuer.issue)).token == "token-3"


async def test_one_who_gives_up_waiting_does_not_end_it_for_the_others(cache: TokenCache[str], issuer: Issuer) -> None:
    issuer.gate = asyncio.Event()
    first = asyncio.create_task(cache.get("a", issuer.issue))
    second = asyncio.create_task(cache.get("a", issuer.issue))
    await until(lambda: issuer.asked == 1)
    first.cancel()
    issuer.gate.set()
    assert (await second).token == "token-1"
    assert issuer.asked == 1


async def test_memory_does_not_grow_with_refused_keys(issuer: Issuer) -> None:
    cache: TokenCache[int] = TokenCache(refused=timedelta(seconds=5), clock=issuer.clock)
    issuer.failure = NoTokenError(Answer.rejected("no"))
    for number in range(3000):
        with pytest.raises(NoTokenError):
            await cache.get(number, issuer.issue)
    assert len(cache._tokens) <= 1000


async def test_closing_ends_what_is_being_asked(cache: TokenCache[str], issuer: Issuer) -> None:
    issuer.gate = asyncio.Event()
    waiting = asyncio.create_task(cache.get("a", issuer.issue))
    await until(lambda: issuer.asked == 1)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
