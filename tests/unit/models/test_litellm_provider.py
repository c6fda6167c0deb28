"""What happens before a helper is asked: a credential is found, once more where it may be old, and a group's share."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import FailedPrecondition, ResourceExhausted
from services.common.grpc.call import Call, enter_call
from services.common.identity.credentials import OutboundCredential
from services.common.identity.principal import CredentialKind, Principal, Role
from services.models.domain.answer import Answer
from services.models.domain.conversation import Completion
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.group_shares import GroupShares
from services.models.providers.litellm.helper import HelperLeaves
from services.models.providers.litellm.provider import LitellmProvider
from services.models.providers.upstreams import Attempt, CallId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = json.dumps({"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key": "k"})


class Credentials:
    """The first of the tokens is remembered until it is forgotten; the next one then is fresh."""

    def __init__(self, *tokens: str, remembered: bool) -> None:
        self.tokens = list(tokens)
        self.remembered = remembered
        self.forgotten = 0

    async def resolve(self, _origin: str, _provider: str) -> OutboundCredential:
        return OutboundCredential(self.tokens[0], on_behalf_of_user=False, from_cache=self.remembered)

    def forget(self, _origin: str, _provider: str) -> None:
        self.forgotten += 1
        self.remembered = False
        self.tokens = self.tokens[1:] or self.tokens


class Reached(Exception):
    """The call has come as far as a helper."""


class Helpers:
    """Some that leave, then one that has a document, if there is one."""

    def __init__(self, *, leaving: int = 0, document: Any = None) -> None:
        self.leaving = leaving
        self.document = document

    async def get(self, _until: float) -> Any:
        if not self.leaving and self.document is None:
            raise Reached
        return self

    async def call(self, *_: Any) -> AsyncGenerator[list[Any], None]:
        if self.leaving:
            self.leaving -= 1
            raise HelperLeaves("no more calls")
        yield [self.document]


class Upstreams:
    async def call(self, model: Model, send: Callable[[Attempt], Awaitable[Any]], **_limits: Any) -> Any:
        return await send(Attempt(model, 1e12, 1e12, CallId()))


async def complete(
    credentials: Credentials, upstream_model: str, shares: GroupShares | None = None, helpers: Helpers | None = None
) -> Answer:
    principal = Principal("a", "sales", Role.OPERATOR, False, CredentialKind.DEV, "", "", NOW)
    enter_call(Call("1", "/m", principal=principal))
    spec = ModelSpec("m", Provider.LITELLM, upstream_model=upstream_model)
    model = Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)
    shares = shares or GroupShares(most=1, wait_seconds=1)
    parts: Any = (credentials, None, {}, Upstreams(), None, shares, helpers or Helpers())
    provider = LitellmProvider(*parts, first_byte_seconds=1, idle_seconds=1, connect_seconds=1)
    return await provider.complete(model, Completion("m", ()))


@pytest.mark.parametrize(
    ("wrong", "good", "upstream_model"),
    [("no JSON", GOOD, "vertex_ai/m"), ("sk-\x07", "sk-good", "groq/m")],
    ids=["form", "characters"],
)
async def test_one_of_the_wrong_form_may_have_been_replaced(wrong: str, good: str, upstream_model: str) -> None:
    with pytest.raises(Reached):
        await complete(Credentials(wrong, good, remembered=True), upstream_model)
    for remembered, times in ((True, 2), (False, 1)):
        credentials = Credentials(wrong, remembered=remembered)
        with pytest.raises(FailedPrecondition) as failure:
            await complete(credentials, upstream_model)
        assert (failure.value.reason, credentials.forgotten) == ("UPSTREAM_CREDENTIAL_REJECTED", times)


async def test_calls_and_counts_at_one_origin_share_what_a_group_may_have_under_way() -> None:
    shares = GroupShares(most=1, wait_seconds=0.01)
    # As a count of Anthropic's tokens holds it.
    async with shares.slot("https://api.anthropic.com", "sales"):
        with pytest.raises(ResourceExhausted) as failure:
            await complete(Credentials("sk-good", remembered=True), "anthropic/m", shares)
    assert failure.value.metadata["origin"] == "https://api.anthropic.com"


async def test_helpers_that_leave_use_up_no_attempt() -> None:
    # The upstreams of this test make one attempt.
    document = {"choices": [{"message": {"role": "assistant", "content": "Ahoy"}, "finish_reason": "stop"}]}
    answer = await complete(
        Credentials("sk-good", remembered=True), "groq/m", helpers=Helpers(leaving=4, document=document)
    )
    assert answer.text == "Ahoy"
