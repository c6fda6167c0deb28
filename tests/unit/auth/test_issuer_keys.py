"""Which of the keys that an issuer publishes are taken, and what an outage of the issuer says of them."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from services.auth.http import HttpAnswer, JsonClient, unavailable
from services.auth.identity.jwks import IssuerAddress, KeySet, _usable
from services.common.errors import Unavailable

STRONG = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()


def published(key: rsa.RSAPublicKey, **more: Any) -> dict[str, Any]:
    jwk: dict[str, Any] = json.loads(RSAAlgorithm.to_jwk(key))
    return jwk | {"kid": "k", "use": "sig", "alg": "RS256"} | more


@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        pytest.param(published(STRONG), True, id="of 2048 bits"),
        pytest.param(published(WEAK), False, id="of 1024 bits"),
        pytest.param(published(STRONG, use="enc"), False, id="for encryption"),
        pytest.param(published(STRONG, kid=7), False, id="without a name"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0", "kid": "k"}, False, id="a published secret"),
        pytest.param({"kty": "RSA", "kid": "k", "n": 7, "e": []}, False, id="no key at all"),
    ],
)
def test_keys_that_prove_something_are_taken(entry: dict[str, Any], taken: bool) -> None:
    assert bool(_usable(HttpAnswer(200, {"keys": [entry, "no object", None]}))) is taken


class Issuer:
    """Publishes one key, or does not answer."""

    def __init__(self) -> None:
        self.kid = "first"
        self.is_away = False
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.keeps_waiting = asyncio.Event()

    async def get(self, url: str, **_: object) -> HttpAnswer:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.answers.is_set():
            self.keeps_waiting.set()
            await self.answers.wait()
        if self.is_away:
            raise unavailable(url, "did not answer")
        return HttpAnswer(200, {"keys": [published(STRONG, kid=self.kid)]})


def keys_of(issuer: Issuer, pause: float, clock: Callable[[], float] = time.monotonic) -> KeySet:
    address = IssuerAddress("issuer", "", jwks_uri="https://issuer.example.com/keys")
    return KeySet(
        cast("JsonClient", issuer), address, refresh_seconds=1000, unknown_key_pause_seconds=pause, clock=clock
    )


async def test_a_new_key_is_not_refused_because_its_issuer_is_away() -> None:
    issuer = Issuer()
    keys = keys_of(issuer, pause=0.0)
    assert await keys.key("first") is not None
    issuer.kid, issuer.is_away = "second", True
    together = await asyncio.gather(*(keys.key("second") for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in together] == [Unavailable] * 3
    assert await keys.key("first") is not None, "what is known outlives the outage"
    issuer.is_away = False
    assert await keys.key("second") is not None


async def test_after_an_outage_new_keys_are_not_refused_before_the_issuer_is_asked_again() -> None:
    issuer = Issuer()
    issuer.is_away = True
    keys = keys_of(issuer, pause=1000.0)
    with pytest.raises(Unavailable):
        await keys.key("first")
    issuer.is_away = False
    assert await keys.key("first") is not None
    assert await keys.key("second") is None, "the issuer has said what it publishes"
    assert issuer.asked == 2


async def test_a_new_key_is_not_refused_while_the_issuer_is_asked_for_it() -> None:
    now = 0.0
    issuer = Issuer()
    keys = keys_of(issuer, pause=5.0, clock=lambda: now)
    assert await keys.key("first") is not None
    issuer.kid, now = "second", 6.0
    issuer.answers.clear()
    calls = [asyncio.create_task(keys.key("second")) for _ in range(3)]
    await issuer.keeps_waiting.wait()
    assert await keys.key("first") is not None, "who has a known key waits for no reading"
    # The call that asks gives up: the others have no answer yet.
    calls[0].cancel()
    issuer.answers.set()
    assert None not in await asyncio.gather(*calls[1:])
    assert issuer.asked == 3


async def test_known_keys_are_refreshed_by_one_call_and_the_others_go_on() -> None:
    now = 0.0
    issuer = Issuer()
    keys = keys_of(issuer, pause=5.0, clock=lambda: now)
    await keys.key("first")
    now = 2000.0
    issuer.answers.clear()
    refreshing = asyncio.create_task(keys.key("first"))
    await issuer.keeps_waiting.wait()
    assert await keys.key("first") is not None
    assert not refreshing.done()
    issuer.answers.set()
    assert await refreshing is not None
    assert issuer.asked == 2
