"""Keys of auth: read now and then, and known while auth is away."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.common.clock import utc_now
from services.common.errors import Unavailable
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.identity.principal_token import PrincipalVerifier, encode_principal

KEY = Ed25519PrivateKey.generate()


def token_of(subject: str, kid: str = "known") -> str:
    principal = Principal(
        subject, "sales", Role.EDITOR, False, CredentialKind.DEV, "", "", utc_now() + timedelta(hours=1)
    )
    return encode_principal(principal, KEY, kid)


class Auth:
    """Publishes a key, or does not answer."""

    def __init__(self) -> None:
        self.is_away = False
        self.asked = 0

    async def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("auth does not answer")
        return {"known": KEY.public_key()}


async def test_known_keys_outlive_an_outage_of_auth_and_are_read_by_one_call_at_a_time() -> None:
    now, auth = 0.0, Auth()
    verifier = PrincipalVerifier(auth, clock=lambda: now)
    assert (await verifier.verify(token_of("ann"))).subject == "ann"
    now, auth.is_away = 301.0, True
    together = await asyncio.gather(*(verifier.verify(token_of(f"subject {number}")) for number in range(5)))
    assert len({principal.subject for principal in together}) == 5
    assert auth.asked == 2
    with pytest.raises(Unavailable):
        await verifier.verify(token_of("ann", "new"))
    auth.is_away = False
    assert (await verifier.verify(token_of("ben"))).subject == "ben"
    assert auth.asked == 4
    assert (await verifier.verify(token_of("eve"))).subject == "eve"
    assert auth.asked == 4, "they have just been read"
