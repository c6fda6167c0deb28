"""Tokens by which services know each other: whatever their claims are, they are verified or refused."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from services.common.errors import Unauthenticated
from services.common.identity.service_identity import TOKEN_TYPE, ServiceIdentity, ServiceTokenVerifier


def signed(identity: ServiceIdentity, **changed: Any) -> str:
    """Return a token with changed claims, whatever a library would say of them; None leaves a claim out."""
    now = int(time.time())
    claims = {"iss": "auth", "aud": "memory", "iat": now, "exp": now + 60} | changed
    payload = json.dumps({name: value for name, value in claims.items() if value is not None})
    return jwt.PyJWS().encode(payload.encode(), identity._key, algorithm="EdDSA", headers={"typ": TOKEN_TYPE})


def test_a_service_is_known_by_its_token(tmp_path: Path) -> None:
    identity = ServiceIdentity.load(tmp_path, "auth", create=True)
    assert ServiceTokenVerifier(tmp_path).verify(signed(identity), "memory") == "auth"


@pytest.mark.parametrize(
    "changed",
    [
        {"iat": str(int(time.time())), "exp": str(int(time.time()) + 60)},
        {"exp": str(int(time.time()) + 60)},
        {"exp": time.time() + 60.5},
        {"exp": 1e308},
        {"exp": True},
        {"exp": [1]},
        {"exp": int(time.time()) + 10**9},
        {"iat": None},
        {"iss": 7},
        {"iss": "../auth"},
    ],
)
def test_odd_claims_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    identity = ServiceIdentity.load(tmp_path, "auth", create=True)
    with pytest.raises(Unauthenticated):
        ServiceTokenVerifier(tmp_path).verify(signed(identity, **changed), "memory")
