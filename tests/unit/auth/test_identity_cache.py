"""Verified credentials are remembered no longer than they may be, and nobody's answer is another's."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from services.auth.domain import VerifiedIdentity
from services.auth.identity import cache as cache_module
from services.auth.identity.cache import CachedVerifier
from services.auth.identity.verifier import rejected
from services.common.clock import utc_now
from services.common.errors import Unauthenticated, Unavailable
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind


class Verifier:
    """Takes `Bearer <name>` for the subject of that name, and counts how often it was asked."""

    def __init__(self, *, lifetime: float = 3600) -> None:
        self.lifetime = lifetime
        self.asked: Counter[str] = Counter()
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        name = credential.authorization or f"forwarded {credential.forwarded_access_token}"
        self.asked[name] += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return VerifiedIdentity(name, CredentialKind.USER, utc_now() + timedelta(seconds=self.lifetime))


class Clock:
    """Seconds that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


ANN = Credential("Bearer ann")


def cached(verifier: Verifier, clock: Clock | None = None) -> CachedVerifier:
    return CachedVerifier(verifier, keep_seconds=300, refused_seconds=3, clock=clock or Clock())


async def test_an_answer_is_remembered_for_its_time_and_no_longer() -> None:
    verifier, clock = Verifier(), Clock()
    cache = cached(verifier, clock)
    await cache.verify(ANN)
    clock.now += 299
    await cache.verify(ANN)
    assert verifier.asked[ANN.authorization] == 1
    clock.now += 2
    await cache.verify(ANN)
    assert verifier.asked[ANN.authorization] == 2


async def test_an_answer_is_forgotten_40_seconds_before_the_credential_expires() -> None:
    verifier, clock = Verifier(lifetime=100), Clock()
    cache = cached(verifier, clock)
    await cache.verify(ANN)
    clock.now += 58
    await cache.verify(ANN)
    clock.now += 3
    await cache.verify(ANN)
    assert verifier.asked[ANN.authorization] == 2


async def test_a_credential_about_to_expire_is_not_remembered_at_all() -> None:
    verifier = Verifier(lifetime=39)
    cache = cached(verifier)
    for _ in range(3):
        await cache.verify(ANN)
    assert verifier.asked[ANN.authorization] == 3


async def test_a_refusal_is_remembered_for_a_moment() -> None:
    verifier, clock = Verifier(), Clock()
    cache = cached(verifier, clock)
    verifier.failure = rejected("no")
    refusals = []
    for _ in range(5):
        with pytest.raises(Unauthenticated) as refusal:
            await cache.verify(ANN)
        refusals.append(refusal.value)
    assert verifier.asked[ANN.authorization] == 1
    assert {(refusal.reason, refusal.message) for refusal in refusals} == {("CREDENTIAL_REJECTED", "no")}
    # Each caller gets an exception of their own: a shared one would collect everybody's traceback.
    assert len({id(refusal) for refusal in refusals}) == 5
    clock.now += 4
    verifier.failure = None
    assert (await cache.verify(ANN)).subject == "Bearer ann"


async def test_an_outage_is_not_remembered() -> None:
    verifier = Verifier()
    cache = cached(verifier)
    verifier.failure = Unavailable("down")
    with pytest.raises(Unavailable):
        await cache.verify(ANN)
    verifier.failure = None
    await cache.verify(ANN)


async def test_many_callers_never_get_each_others_identity() -> None:
    verifier = Verifier()
    cache = cached(verifier)
    # The same text in the other header, or split elsewhere, is another credential.
    credentials = [Credential(f"Bearer {number % 40}") for number in range(400)]
    credentials += [Credential("", f"Bearer {number % 40}") for number in range(400)]
    found = await asyncio.gather(*(cache.verify(credential) for credential in credentials))
    for credential, identity in zip(credentials, found, strict=True):
        want = credential.authorization or f"forwarded {credential.forwarded_access_token}"
        assert identity.subject == want
    assert set(verifier.asked.values()) == {1}


async def test_a_caller_who_goes_away_does_not_take_the_answer_along() -> None:
    verifier = Verifier()
    verifier.gate = asyncio.Event()
    cache = cached(verifier)
    gone, waiting = (asyncio.create_task(cache.verify(ANN)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    verifier.gate.set()
    assert (await waiting).subject == "Bearer ann"
    assert verifier.asked[ANN.authorization] == 1


async def test_the_cache_keeps_no_credential_and_no_more_than_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_SIZE", 50)
    verifier = Verifier()
    cache = cached(verifier)
    for number in range(200):
        await cache.verify(Credential(f"Bearer secret-{number}"))
    assert len(cache._identities) <= 50
    assert not any(b"secret" in key for key in cache._identities._values)
