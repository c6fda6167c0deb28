"""Which of the keys that an issuer publishes are taken."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from services.auth.http import HttpAnswer
from services.auth.identity.jwks import _usable

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
