"""Callers share the resolution of a credential only where they would get the same one."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from services.auth.chains.chain import Chain
from services.auth.chains.link import Answer, CredentialRequest
from services.auth.domain import CredentialPurpose, CredentialReference
from services.auth.usecases.credentials import Credentials
from services.common.errors import Unavailable
from services.common.identity.principal import CredentialKind, Principal, Role
from tests.support.waiting import until

ALICE = Principal(
    "issuer|alice", "sales", Role.OPERATOR, False, CredentialKind.USER, "s1", "", datetime(2100, 1, 1, tzinfo=UTC)
)
PURPOSE = CredentialPurpose.VECTOR_SEARCH
ORIGIN = "https://example.com"


class GatedLink:
    """Answers with a token of the principal once its gate is open."""

    name = "gated"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[str] = []

    async def ask(self, request: CredentialRequest) -> Answer:
        self.asked.append(request.principal.session_id)
        number = len(self.asked)
        await self.gate.wait()
        return Answer.used("", f"{request.principal.session_id}-{number}", request.destination)


@pytest.fixture
def link() -> GatedLink:
    return GatedLink()


@pytest.fixture
def credentials(link: GatedLink) -> Credentials:
    return Credentials({PURPOSE: Chain([link])}, keep=timedelta(minutes=1))


async def resolve(credentials: Credentials, principal: Principal) -> str:
    return (await credentials.resolve(principal, CredentialReference(PURPOSE, ORIGIN))).token


async def test_calls_of_one_principal_share_a_resolution_that_outlives_a_cancelled_one(
    link: GatedLink, credentials: Credentials
) -> None:
    expired = replace(ALICE, execution_id="e1", expires_at=datetime(2000, 1, 1, tzinfo=UTC))
    first, second = (asyncio.create_task(resolve(credentials, caller)) for caller in (expired, ALICE))
    await until(lambda: link.asked)
    first.cancel()
    await asyncio.sleep(0)
    link.gate.set()
    assert await second == "s1-1"
    assert await resolve(credentials, ALICE) == "s1-1"
    assert link.asked == ["s1"]


async def test_each_link_that_is_asked_is_counted_by_its_outcome() -> None:
    class Silent(GatedLink):
        name = "silent"

        async def ask(self, request: CredentialRequest) -> Answer:
            raise Unavailable("the issuer does not answer")

    def counted() -> list[float | None]:
        expected = (("gated", "ABSENT"), ("gated", "USED"), ("silent", "UNAVAILABLE"))
        labels = ({"chain": PURPOSE.value, "link": link, "outcome": outcome} for link, outcome in expected)
        return [REGISTRY.get_sample_value("coxswain_credentials_total", each) for each in labels]

    class Nothing(GatedLink):
        async def ask(self, request: CredentialRequest) -> Answer:
            return Answer.absent("there is none")

    credentials = Credentials({PURPOSE: Chain([Nothing(), Silent()])}, keep=timedelta(minutes=1))
    absent, used, unavailable = (count or 0.0 for count in counted())
    with pytest.raises(Unavailable):
        await resolve(credentials, ALICE)
    assert counted() == [absent + 1, used, unavailable + 1]


@pytest.mark.parametrize(
    "other",
    [
        replace(ALICE, subject="issuer|bob"),
        replace(ALICE, group_id="legal"),
        replace(ALICE, session_id="s2"),
        replace(ALICE, credential_kind=CredentialKind.GROUP),
    ],
)
async def test_a_credential_of_one_principal_never_serves_another(
    link: GatedLink, credentials: Credentials, other: Principal
) -> None:
    both = [asyncio.create_task(resolve(credentials, caller)) for caller in (ALICE, other)]
    await until(lambda: len(link.asked) == 2)
    link.gate.set()
    assert await asyncio.gather(*both) == ["s1-1", f"{other.session_id}-2"]


async def test_what_is_resolved_while_a_secret_changes_is_not_kept(link: GatedLink, credentials: Credentials) -> None:
    running = asyncio.create_task(resolve(credentials, ALICE))
    await until(lambda: link.asked)
    credentials.forget("legal")
    credentials.forget("sales")
    link.gate.set()
    assert await running == "s1-1"
    assert await resolve(credentials, ALICE) == "s1-2"
    credentials.forget("legal")
    assert await resolve(credentials, ALICE) == "s1-2"
