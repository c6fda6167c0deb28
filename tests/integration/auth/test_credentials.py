"""Outbound credentials from the environment: for whom, and where they may be sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode

from coxswain.auth.v1 import credential_pb2
from services.auth.chains.environment import EnvironmentLink
from services.auth.chains.link import Answer, CredentialRequest
from services.auth.settings import AuthSettings
from services.auth.usecases import credentials
from services.common.grpc.call import acting_as
from tests.integration.auth.support import internal, llm, public, refused, resolve, token_of
from tests.support.harness import Harness, serve_services

KEY = "sk-marked-provider-key"
PAT = "dapi-marked-token"
ALICE = "dev:alice:sales=operator"


@pytest.fixture
async def auth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8123/v1")
    monkeypatch.setenv("DATABRICKS_HOST", "workspace.example.com/")
    monkeypatch.setenv("DATABRICKS_TOKEN", PAT)
    async with serve_services(tmp_path) as harness:
        yield harness


@pytest.mark.parametrize("destination", ["", "http://127.0.0.1:8123", "HTTP://127.0.0.1:8123/v1/chat"])
async def test_a_provider_key_comes_with_the_origin_it_belongs_to(auth: Harness, destination: str) -> None:
    answer = await resolve(auth, ALICE, **llm(destination))
    assert (answer.token, answer.origin, answer.link) == (KEY, "http://127.0.0.1:8123", "environment")
    assert not answer.on_behalf_of_user


@pytest.mark.parametrize(
    "destination",
    ["https://127.0.0.1:8123", "http://127.0.0.1:8124", "http://127.0.0.1", "http://127.0.0.1.example.com:8123"],
)
async def test_a_provider_key_goes_nowhere_else(auth: Harness, destination: str) -> None:
    with refused(StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED") as refusal:
        await resolve(auth, "dev:ada:sales=admin", **llm(destination))
    assert KEY not in refusal.message


async def test_members_are_refused_a_key_for_another_address_as_where_there_is_none(auth: Harness) -> None:
    elsewhere = "https://example.com"
    refusals = []
    for provider in ("openai", "groq"):
        with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
            await resolve(auth, ALICE, **llm(elsewhere, provider))
        refusals.append((refusal.message.replace(provider, "<provider>"), refusal.metadata))
    assert refusals[0] == refusals[1]
    search = {"purpose": credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH, "destination_origin": elsewhere}
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
        await resolve(auth, ALICE, **search)
    assert refusal.message.endswith(
        "environment: an admin of the group sees why; sdk_default: an admin of the group sees why"
    )


@pytest.mark.parametrize("destination", ["http://user@127.0.0.1:8123", "127.0.0.1:8123", "ftp://127.0.0.1", "http://"])
async def test_a_destination_that_is_no_origin_is_refused(auth: Harness, destination: str) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await resolve(auth, ALICE, **llm(destination))


async def test_a_provider_without_a_key_is_not_configured(auth: Harness) -> None:
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
        await resolve(auth, "dev:ada:sales=admin", **llm(provider="anthropic"))
    assert refusal.metadata == {"purpose": "LLM_PROVIDER", "links": "stored_secret,environment"}
    assert "ANTHROPIC_API_KEY is not set" in refusal.message
    with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
        await resolve(auth, "dev:olaf:sales=operator", **llm(provider="anthropic"))
    assert "ANTHROPIC" not in refusal.message


async def test_databricks_tokens_of_the_environment_belong_to_its_host(auth: Harness) -> None:
    for purpose in (credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS, credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH):
        answer = await resolve(auth, ALICE, purpose=purpose)
        assert (answer.token, answer.origin) == (PAT, "https://workspace.example.com")


async def test_explanations_report_each_link_without_the_secret(auth: Harness) -> None:
    request = credential_pb2.ExplainCredentialRequest(
        purpose=credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, provider="openai"
    )
    explained = await public(auth, "dev:ada:sales=admin").ExplainCredential(request)
    assert [(link.link, link.outcome) for link in explained.links] == [
        ("stored_secret", credential_pb2.LINK_OUTCOME_ABSENT),
        ("environment", credential_pb2.LINK_OUTCOME_USED),
    ]
    assert (explained.resolvable, explained.origin) == (True, "http://127.0.0.1:8123")
    request.destination_origin = "https://example.com"
    refused_explanation = await public(auth, "dev:ada:sales=admin").ExplainCredential(request)
    assert refused_explanation.links[-1].outcome == credential_pb2.LINK_OUTCOME_REJECTED
    assert not refused_explanation.resolvable
    assert KEY not in str(explained) + str(refused_explanation)
    # Who is no admin does not learn which variables there are: a key for another address looks as none does.
    to_members = [await public(auth, ALICE).ExplainCredential(request)]
    request.provider = "anthropic"
    to_members.append(await public(auth, ALICE).ExplainCredential(request))
    assert [list(each.links)[1:] for each in to_members] == [
        [
            credential_pb2.LinkExplanation(
                link="environment",
                outcome=credential_pb2.LINK_OUTCOME_ABSENT,
                detail="an admin of the group sees why",
            )
        ]
    ] * 2


async def test_members_do_not_learn_of_a_key_for_another_address_by_links_that_were_not_reached(auth: Harness) -> None:
    request = credential_pb2.ExplainCredentialRequest(
        purpose=credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH, destination_origin="https://example.com"
    )
    to_admin = await public(auth, "dev:ada:sales=admin").ExplainCredential(request)
    assert [(link.link, link.outcome) for link in to_admin.links][2:] == [
        ("environment", credential_pb2.LINK_OUTCOME_REJECTED),
        ("sdk_default", credential_pb2.LINK_OUTCOME_NOT_REACHED),
    ]
    to_member = await public(auth, ALICE).ExplainCredential(request)
    assert list(to_member.links)[2:] == [
        credential_pb2.LinkExplanation(
            link=name, outcome=credential_pb2.LINK_OUTCOME_ABSENT, detail="an admin of the group sees why"
        )
        for name in ("environment", "sdk_default")
    ]
    # What the group is served by hides nothing: links after it are not reached.
    request.destination_origin = ""
    served = await public(auth, ALICE).ExplainCredential(request)
    assert [link.outcome for link in served.links][2:] == [
        credential_pb2.LINK_OUTCOME_USED,
        credential_pb2.LINK_OUTCOME_NOT_REACHED,
    ]


async def test_several_explanations_come_in_the_order_of_the_questions_and_tell_what_one_would(
    auth: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [
        credential_pb2.ExplainCredentialRequest(**llm(destination, provider))
        for destination, provider in [("", "openai"), ("https://example.com", "openai"), ("", "groq"), ("", "openai")]
    ]
    with acting_as(await token_of(auth, ALICE)):
        together = await internal(auth, "models").ExplainCredentials(
            credential_pb2.ExplainCredentialsRequest(credentials=questions)
        )
    admins = [await public(auth, "dev:ada:sales=admin").ExplainCredential(each) for each in questions]
    outcomes = [[(link.link, link.outcome) for link in each.links] for each in together.explanations]
    assert outcomes == [[(link.link, link.outcome) for link in each.links] for each in admins]
    assert [each.resolvable for each in together.explanations] == [each.resolvable for each in admins]
    assert KEY not in str(together)

    # One that hangs keeps no other back.
    async def hang(link: EnvironmentLink, request: CredentialRequest) -> Answer:
        if request.provider == "groq":
            await asyncio.Event().wait()
        return await ask(link, request)

    ask = EnvironmentLink.ask
    monkeypatch.setattr(EnvironmentLink, "ask", hang)
    monkeypatch.setattr(credentials, "_EXPLAIN_SECONDS", 0.2)
    token = await token_of(auth, ALICE)

    async def one_is_answered() -> bool:
        with acting_as(token):
            told = await internal(auth, "models").ExplainCredentials(
                credential_pb2.ExplainCredentialsRequest(credentials=questions[2:])
            )
        hanging, other = told.explanations
        assert (bool(hanging.links), hanging.resolvable) == (False, False)
        return other.resolvable

    async with asyncio.timeout(60):
        # A busy machine may need more than one try.
        while not await one_is_answered():
            pass


async def test_only_groups_the_operator_names_share_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = {"auth": AuthSettings(shared_credential_groups=("legal",))}
    async with serve_services(tmp_path, settings=settings) as auth:
        assert (await resolve(auth, "dev:bob:legal=operator", **llm())).token == KEY
        with refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED") as refusal:
            await resolve(auth, ALICE, **llm())
    assert "COXSWAIN_AUTH_SHARED_CREDENTIAL_GROUPS" in refusal.message
