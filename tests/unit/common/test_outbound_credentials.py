"""Credentials that services get from auth, asked of a toy auth over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from coxswain.auth.v1 import auth_service_pb2_grpc, credential_pb2
from services.common.clock import utc_now
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unauthenticated
from services.common.grpc.call import Call, enter_call
from services.common.grpc.status import DETAILS_KEY, to_status
from services.common.identity.credentials import AuthCredentials, CredentialAvailability, Destination
from services.common.identity.principal import CredentialKind, Principal, Role

ORIGIN = "https://upstream.example.com"
KEYLESS = "http://keyless.example.com"
ELSEWHERE = "https://elsewhere.example.com"
SLOW = "https://slow.example.com"
SECONDS = 60.0


class ToyAuth(auth_service_pb2_grpc.AuthServiceServicer):
    """Has a credential for one origin, good for `lifetime`, and none for others."""

    def __init__(self) -> None:
        self.asked: list[credential_pb2.ResolveCredentialRequest] = []
        self.lifetime = timedelta(minutes=5)
        self.answers_origin = ORIGIN
        self.has = {"", ORIGIN}
        self.failure: CoxswainError = FailedPrecondition("none is configured", reason="CREDENTIAL_NOT_CONFIGURED")
        self.explained: list[list[str]] = []
        self.outcome = credential_pb2.LINK_OUTCOME_ABSENT
        self.link = "stored_secret"
        self.fails_about: set[str] = set()
        self.silent_about: set[str] = set()

    async def ResolveCredential(
        self, request: credential_pb2.ResolveCredentialRequest, context: Any
    ) -> credential_pb2.ResolveCredentialResponse:
        self.asked.append(request)
        if request.destination_origin not in self.has:
            code, status = to_status(self.failure, "r")
            await context.abort(code, self.failure.message, ((DETAILS_KEY, status.SerializeToString()),))
        response = credential_pb2.ResolveCredentialResponse(
            token=f"token-{len(self.asked)}", origin=self.answers_origin, link="stored_secret"
        )
        response.expire_time.FromDatetime(utc_now() + self.lifetime)
        return response

    async def ExplainCredentials(
        self, request: credential_pb2.ExplainCredentialsRequest, context: Any
    ) -> credential_pb2.ExplainCredentialsResponse:
        origins = [each.destination_origin for each in request.credentials]
        self.explained.append(origins)
        if self.fails_about.intersection(origins):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if self.silent_about.intersection(origins):
            await asyncio.Event().wait()
        return credential_pb2.ExplainCredentialsResponse(explanations=map(self._explanation, request.credentials))

    def _explanation(self, asked: credential_pb2.ExplainCredentialRequest) -> credential_pb2.ExplainCredentialResponse:
        if asked.destination_origin == SLOW:
            return credential_pb2.ExplainCredentialResponse()
        used = asked.destination_origin in {"", ORIGIN}
        outcome = credential_pb2.LINK_OUTCOME_USED if used else self.outcome
        return credential_pb2.ExplainCredentialResponse(
            links=[credential_pb2.LinkExplanation(link=self.link, outcome=outcome)], resolvable=used
        )


@pytest.fixture
async def auth() -> AsyncIterator[tuple[ToyAuth, grpc.aio.Channel]]:
    toy = ToyAuth()  # type: ignore[abstract]
    server = grpc.aio.server()
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(toy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield toy, channel
    await server.stop(0)


def credentials(channel: grpc.aio.Channel) -> AuthCredentials:
    return AuthCredentials(channel, credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, frozenset({KEYLESS}))


async def availability(source: AuthCredentials, origin: str, provider: str = "") -> CredentialAvailability:
    place = Destination(origin, provider)
    return (await source.availability([place], SECONDS))[place]


@contextmanager
def called_by(subject: str, group: str, session: str = "") -> Iterator[None]:
    principal = Principal(
        subject=subject,
        group_id=group,
        role=Role.OPERATOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id=session,
        execution_id="",
        expires_at=utc_now() + timedelta(minutes=5),
    )
    enter_call(Call(request_id="r", method="m", principal=principal))
    yield


async def test_a_credential_is_asked_for_once_and_says_when_it_was_remembered(
    auth: tuple[ToyAuth, grpc.aio.Channel],
) -> None:
    toy, channel = auth
    source = credentials(channel)
    with called_by("ann", "sales"):
        first, second = await source.resolve(ORIGIN, "openai"), await source.resolve(ORIGIN, "openai")
        assert (first.token, first.from_cache) == ("token-1", False)
        assert (second.token, second.from_cache) == ("token-1", True)
        refusals = {"chain": "LLM_PROVIDER", "link": "stored_secret"}
        before = REGISTRY.get_sample_value("coxswain_credentials_refused_total", refusals)
        source.forget(ORIGIN, "openai")
        assert REGISTRY.get_sample_value("coxswain_credentials_refused_total", refusals) == (before or 0) + 1
        assert (await source.resolve(ORIGIN, "openai")).token == "token-2"
    assert [(asked.purpose, asked.provider) for asked in toy.asked] == 2 * [
        (credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, "openai")
    ]


async def test_a_credential_is_never_given_to_another_group_subject_session_or_provider(
    auth: tuple[ToyAuth, grpc.aio.Channel],
) -> None:
    _, channel = auth
    source = credentials(channel)
    tokens = set()
    callers = [("ann", "sales", ""), ("bob", "sales", ""), ("ann", "legal", ""), ("ann", "sales", "s2")]
    for caller in callers:
        with called_by(*caller):
            for provider in ("openai", "azure"):
                tokens.add((await source.resolve(ORIGIN, provider)).token)
    assert len(tokens) == 2 * len(callers)


async def test_a_credential_that_has_expired_is_not_used_again(auth: tuple[ToyAuth, grpc.aio.Channel]) -> None:
    toy, channel = auth
    toy.lifetime = timedelta(seconds=-1)
    source = credentials(channel)
    with called_by("ann", "sales"):
        await source.resolve(ORIGIN)
        assert (await source.resolve(ORIGIN)).token == "token-2"


async def test_a_credential_of_another_place_is_refused(auth: tuple[ToyAuth, grpc.aio.Channel]) -> None:
    toy, channel = auth
    toy.answers_origin = "https://elsewhere.example.com"
    with called_by("ann", "sales"):
        with pytest.raises(PermissionDenied) as refused:
            await credentials(channel).resolve(ORIGIN, "openai")
        assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
        assert (await credentials(channel).resolve("", "openai")).token, "no place was named"


# Of one and the same key of the operator's auth says the first to those who may not know of it.
@pytest.mark.parametrize(
    "failure",
    [
        FailedPrecondition("none is configured", reason="CREDENTIAL_NOT_CONFIGURED"),
        PermissionDenied(
            "it belongs to another origin", reason="DESTINATION_NOT_ALLOWED", metadata={"link": "environment"}
        ),
        Unauthenticated(
            "the origin it may be sent to is not known", reason="CREDENTIAL_REJECTED", metadata={"link": "sdk_default"}
        ),
    ],
    ids=lambda failure: failure.reason,
)
async def test_only_a_keyless_origin_is_called_without_a_credential(
    auth: tuple[ToyAuth, grpc.aio.Channel], failure: CoxswainError
) -> None:
    toy, channel = auth
    toy.failure = failure
    with called_by("ann", "sales"):
        assert (await credentials(channel).resolve(KEYLESS)).token == ""
        with pytest.raises(type(failure)) as refused:
            await credentials(channel).resolve("https://other.example.com")
        assert refused.value.reason == failure.reason


@pytest.mark.parametrize(
    "failure",
    [
        Unauthenticated("it has expired", reason="CREDENTIAL_EXPIRED", metadata={"link": "environment"}),
        # The caller's own.
        Unauthenticated("their access was revoked", reason="CREDENTIAL_REJECTED"),
        Unauthenticated("it was refused", reason="CREDENTIAL_REJECTED", metadata={"link": "stored_secret"}),
        PermissionDenied(
            "it belongs to another origin", reason="DESTINATION_NOT_ALLOWED", metadata={"link": "stored_secret"}
        ),
    ],
    ids=["expired", "revoked", "refused", "elsewhere"],
)
async def test_a_key_that_cannot_be_used_is_not_left_out_where_none_is_needed(
    auth: tuple[ToyAuth, grpc.aio.Channel], failure: CoxswainError
) -> None:
    toy, channel = auth
    toy.failure = failure
    with called_by("ann", "sales"), pytest.raises(type(failure)):
        await credentials(channel).resolve(KEYLESS)


async def test_auth_is_asked_now_and_then_whether_a_keyless_origin_has_got_a_key(
    auth: tuple[ToyAuth, grpc.aio.Channel],
) -> None:
    toy, channel = auth
    now = 1000.0
    source = AuthCredentials(
        channel, credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, frozenset({KEYLESS}), clock=lambda: now
    )
    with called_by("ann", "sales"):
        for _ in range(3):
            assert (await source.resolve(KEYLESS)).token == ""
        assert len(toy.asked) == 1
        assert await availability(source, KEYLESS) is CredentialAvailability.NOT_NEEDED
    with called_by("bob", "legal"):
        await source.resolve(KEYLESS)
        assert len(toy.asked) == 2, "one group's lack of a key is nothing to another"
    toy.has, toy.answers_origin = {KEYLESS}, KEYLESS
    now += 10
    with called_by("ann", "sales"):
        assert (await source.resolve(KEYLESS)).token
        assert await availability(source, KEYLESS) is CredentialAvailability.AVAILABLE


async def test_whether_there_are_credentials_is_told_in_one_call_without_fetching_them(
    auth: tuple[ToyAuth, grpc.aio.Channel],
) -> None:
    toy, channel = auth
    source = credentials(channel)
    places = [Destination(origin, "openai") for origin in (ORIGIN, ELSEWHERE, KEYLESS, SLOW)]
    with called_by("ann", "sales"):
        assert [each.name for each in (await source.availability(places, SECONDS)).values()] == [
            "AVAILABLE",
            "MISSING",
            "NOT_NEEDED",
            "UNKNOWN",
        ]
        assert toy.explained == [[ORIGIN, ELSEWHERE, KEYLESS, SLOW]]
        # As in calls: an operator's that may not be sent there is as none; one that has expired, or is the group's, is
        # missed.
        for toy.link, outcome, keyless in (
            ("environment", "REJECTED", "NOT_NEEDED"),
            ("environment", "EXPIRED", "MISSING"),
            ("stored_secret", "REJECTED", "MISSING"),
        ):
            toy.outcome = credential_pb2.LinkOutcome.Value(f"LINK_OUTCOME_{outcome}")
            assert (await availability(source, KEYLESS)).name == keyless
            assert await availability(source, ELSEWHERE) is CredentialAvailability.MISSING
        # It may be had a moment later.
        toy.outcome = credential_pb2.LINK_OUTCOME_UNAVAILABLE
        assert await availability(source, ELSEWHERE) is CredentialAvailability.UNKNOWN
        assert toy.asked == []
        # One that was fetched for a call is known to be there, for its group alone.
        await source.resolve(ORIGIN, "openai")
        asked = len(toy.explained)
        assert await availability(source, ORIGIN, "openai") is CredentialAvailability.AVAILABLE
        assert len(toy.explained) == asked
    with called_by("bob", "legal"):
        await availability(source, ORIGIN, "openai")
        assert len(toy.explained) == asked + 1


@pytest.mark.parametrize(("fails", "seconds"), [(True, SECONDS), (False, 0.05)])
async def test_what_was_fetched_is_known_also_while_auth_says_nothing(
    auth: tuple[ToyAuth, grpc.aio.Channel], fails: bool, seconds: float
) -> None:
    toy, channel = auth
    source = credentials(channel)
    (toy.fails_about if fails else toy.silent_about).add(ELSEWHERE)
    places = [Destination(origin, "openai") for origin in (ORIGIN, ELSEWHERE)]
    with called_by("ann", "sales"):
        await source.resolve(ORIGIN, "openai")
        found = await source.availability(places, seconds)
    assert [each.name for each in found.values()] == ["AVAILABLE", "UNKNOWN"]


async def test_many_destinations_are_asked_about_in_portions(auth: tuple[ToyAuth, grpc.aio.Channel]) -> None:
    toy, channel = auth
    places = [Destination(f"https://{number}.example.com", "openai") for number in range(230)]
    toy.fails_about.add("https://120.example.com")
    with called_by("ann", "sales"):
        found = await credentials(channel).availability(places, SECONDS)
    assert list(found) == places
    assert sorted(len(each) for each in toy.explained) == [30, 100, 100]
    # A portion without an answer costs the others nothing.
    unknown = [place for place in places if found[place] is CredentialAvailability.UNKNOWN]
    assert unknown == places[100:200]
