"""How long a verified caller is remembered."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from services.common.clock import utc_now
from services.common.identity.authenticator import Authenticator, Credential
from services.common.identity.group_limits import NO_GROUP_LIMITS, GroupLimits
from services.common.identity.principal import CredentialKind, Principal, Role

ANN = Credential("Bearer ann")


class Auth:
    """Knows everybody, for as long as it is told."""

    def __init__(self, lifetime: float) -> None:
        self.lifetime = lifetime
        self.asked = 0
        self.limits = NO_GROUP_LIMITS

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        self.asked += 1
        expires = utc_now() + timedelta(seconds=self.lifetime)
        return Principal(
            subject=credential.authorization,
            group_id=group_id,
            role=Role.EDITOR,
            platform_admin=False,
            credential_kind=CredentialKind.DEV,
            session_id="",
            execution_id="",
            expires_at=expires,
            limits=self.limits,
        )


def authenticator(auth: Auth, seconds: float, clock: Callable[[], float] = time.monotonic) -> Authenticator:
    return Authenticator(auth, cast("Any", None), cast("Any", None), seconds, clock=clock)


async def test_what_is_left_of_an_answer_shrinks_and_asking_does_not_stretch_it() -> None:
    auth = Auth(300)
    now = 1000.0
    callers = authenticator(auth, 60, lambda: now)
    assert callers.remembered_seconds(ANN, "sales") == 0
    await callers.caller(ANN, "sales")
    assert callers.remembered_seconds(ANN, "sales") == 60
    now += 45
    await callers.caller(ANN, "sales")
    assert callers.remembered_seconds(ANN, "sales") == 15
    assert callers.remembered_seconds(ANN, "legal") == 0
    assert callers.remembered_seconds(Credential("", "Bearer ann"), "sales") == 0
    now += 16
    assert callers.remembered_seconds(ANN, "sales") == 0
    await callers.caller(ANN, "sales")
    assert (auth.asked, callers.remembered_seconds(ANN, "sales")) == (2, 60)


@pytest.mark.parametrize(("lifetime", "seconds", "most"), [(30, 60, 20), (5, 60, 0), (300, 0, 0)])
async def test_nobody_is_remembered_beyond_their_principal(lifetime: float, seconds: float, most: float) -> None:
    callers = authenticator(Auth(lifetime), seconds)
    await callers.caller(ANN, "sales")
    assert callers.remembered_seconds(ANN, "sales") <= most


async def test_a_change_of_limits_is_seen_soon_and_at_once_where_it_is_made() -> None:
    auth = Auth(300)
    auth.limits = GroupLimits(max_crews=1)
    callers = authenticator(auth, 60)
    for group in ("sales", "legal"):
        await callers.caller(ANN, group)
        assert 9 < callers.remembered_seconds(ANN, group) <= 10
    callers.forget_group("sales")
    assert callers.remembered_seconds(ANN, "sales") == 0
    assert callers.remembered_seconds(ANN, "legal") > 0
