"""jwt mode: tokens of any OpenID Connect issuer, Kubernetes among them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from coxswain.auth.v1 import access_change_pb2, credential_pb2, group_pb2, principal_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from services.auth.settings import AuthSettings, OidcIssuer
from services.common.startup import StartError
from tests.integration.auth.support import guarded_settings, make_service_keys, refused, stub, who
from tests.support.databricks_identity import DatabricksIdentity, User
from tests.support.harness import Harness, serve_services

AUDIENCE = "coxswain"
SERVICE_ACCOUNT = "system:serviceaccount:crews:runner"


@pytest.fixture
async def issuer() -> AsyncIterator[DatabricksIdentity]:
    async with DatabricksIdentity() as issuer:
        yield issuer


def settings_for(issuer: DatabricksIdentity, **changes: Any) -> AuthSettings:
    issuer_settings = {"issuer": issuer.issuer, "audiences": [AUDIENCE]} | changes
    return guarded_settings(
        oidc_issuers=(OidcIssuer.model_validate(issuer_settings),),
        bootstrap_admin=f"{issuer.issuer}|{SERVICE_ACCOUNT}",
    )


def mint(issuer: DatabricksIdentity, subject: str = SERVICE_ACCOUNT, **claims: Any) -> str:
    values = {"sub": subject, "aud": [AUDIENCE, "another"], "client_id": None, "scope": None} | claims
    return issuer.mint(User(user_name=subject, id="1"), claims=values)


@pytest.fixture
async def auth(tmp_path: Path, issuer: DatabricksIdentity) -> AsyncIterator[Harness]:
    make_service_keys(tmp_path)
    settings = {
        "auth": settings_for(
            issuer,
            groups_claim="groups",
            groups={
                "sales-people": {"group": "sales", "role": "operator"},
                "sales-leads": {"group": "sales", "role": "editor"},
                "ghosts": {"group": "never-made", "role": "admin"},
            },
        )
    }
    async with serve_services(tmp_path, settings=settings, identity_mode="jwt") as harness:
        yield harness


async def test_a_kubernetes_service_account_is_a_workload_with_nothing_to_act_with(
    auth: Harness, issuer: DatabricksIdentity
) -> None:
    kubernetes = {"namespace": "crews", "serviceaccount": {"name": "runner", "uid": "1"}}
    claims: dict[str, Any] = {"kubernetes.io": kubernetes, "nbf": int(issuer.now())}
    token = mint(issuer, **claims)
    me = await who(auth, token)
    assert me.principal.subject == f"{issuer.issuer}|{SERVICE_ACCOUNT}"
    assert me.principal.credential_kind == principal_pb2.CREDENTIAL_KIND_WORKLOAD
    explained = await stub(auth, token).ExplainCredential(
        credential_pb2.ExplainCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
    )
    assert explained.links[0].link == "user_token"
    assert explained.links[0].outcome == credential_pb2.LINK_OUTCOME_ABSENT


async def test_a_token_that_does_not_say_when_it_was_issued_is_the_same_however_it_is_sent(
    auth: Harness, issuer: DatabricksIdentity
) -> None:
    token = mint(issuer, "ann", groups=["sales-people"], iat=None)
    members = group_pb2.ListMembersRequest()
    await GroupServiceStub(auth.channel(token)).ListMembers(members)
    revoke = access_change_pb2.RevokeAccessRequest(subject=f"{issuer.issuer}|ann")
    await GroupServiceStub(auth.channel(mint(issuer))).RevokeAccess(revoke)
    for headers in (
        {"authorization": f"Bearer  {token}"},
        {"authorization": f"bearer {token}"},
        # The same signature, padded.
        {"authorization": f"Bearer {token}=="},
        {"x-forwarded-access-token": token},
    ):
        channel = auth.channel("", headers=headers)
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED") as refusal:
            await GroupServiceStub(channel).ListMembers(members)
        assert "revoked" in refusal.message


async def test_an_issuer_that_asks_for_a_token_itself_gets_the_one_in_the_file(
    tmp_path: Path, issuer: DatabricksIdentity
) -> None:
    make_service_keys(tmp_path)
    file = tmp_path / "own-token"
    file.write_text("own-service-account-token\n")
    settings = {"auth": settings_for(issuer, token_file=str(file))}
    async with serve_services(tmp_path, settings=settings, identity_mode="jwt") as auth:
        await who(auth, mint(issuer))
    asked = issuer.requests(path="/oidc/")
    assert {request.headers["authorization"] for request in asked} == {"Bearer own-service-account-token"}


async def test_keys_at_a_configured_address_need_no_discovery(tmp_path: Path, issuer: DatabricksIdentity) -> None:
    make_service_keys(tmp_path)
    settings = {"auth": settings_for(issuer, jwks_uri=f"{issuer.url}/oidc/jwks.json")}
    async with serve_services(tmp_path, settings=settings, identity_mode="jwt") as auth:
        await who(auth, mint(issuer))
    assert not issuer.requests(path="openid-configuration")


async def test_a_claim_maps_to_groups_that_exist(auth: Harness, issuer: DatabricksIdentity) -> None:
    cases: dict[str, tuple[Any, list[tuple[str, int]]]] = {
        "one": (["sales-people"], [("sales", 2)]),
        "the greater role": (["sales-leads", "sales-people"], [("sales", 3)]),
        "a single name": ("sales-leads", [("sales", 3)]),
        "names that mean nothing": (["others", 1, None, {"a": 1}], []),
        "a group that was never made": (["ghosts"], []),
        "no list": ({"sales-leads": True}, []),
    }
    for name, (claim, expected) in cases.items():
        me = await who(auth, mint(issuer, subject=f"user of {name}", groups=claim))
        assert [(group.group_id, group.role) for group in me.groups] == expected, name


async def test_a_stored_membership_goes_before_a_claim(auth: Harness, issuer: DatabricksIdentity) -> None:
    subject = f"{issuer.issuer}|olga"
    admin = GroupServiceStub(auth.channel(mint(issuer)))
    await admin.SetMember(group_pb2.SetMemberRequest(subject=subject, role=2))  # type: ignore[arg-type]
    me = await who(auth, mint(issuer, subject="olga", groups=["sales-leads"]))
    assert [(group.group_id, group.role) for group in me.groups] == [("sales", 2)]


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": []},
        {"aud": None},
        {"iss": "https://example.com"},
        {"sub": ""},
        {"sub": "x" * 600},
    ],
    ids=str,
)
async def test_tokens_for_others_prove_nothing(
    auth: Harness, issuer: DatabricksIdentity, claims: dict[str, Any]
) -> None:
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
        await who(auth, mint(issuer, **claims))


async def test_a_client_that_is_not_allowed_is_refused(tmp_path: Path, issuer: DatabricksIdentity) -> None:
    make_service_keys(tmp_path)
    settings = {"auth": settings_for(issuer, client_ids=["console"])}
    async with serve_services(tmp_path, settings=settings, identity_mode="jwt") as auth:
        await who(auth, mint(issuer, azp="console"))
        for claims in ({"azp": "other"}, {}, {"azp": ["console"]}):
            with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
                await who(auth, mint(issuer, **claims))


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://example.com"},
        {"issuer": "example.com"},
        {"audiences": []},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"jwks_uri": "http://example.com/keys"},
        {"surprise": 1},
    ],
    ids=str,
)
def test_an_unsafe_issuer_is_refused_at_start(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        OidcIssuer.model_validate({"issuer": "https://example.com", "audiences": ["a"]} | changes)


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("jwt", {}, "COXSWAIN_AUTH_OIDC_ISSUERS"),
        ("databricks", {}, "DATABRICKS_HOST"),
        ("databricks", {"databricks_hosts": ("https://a.example.com",)}, "AUDIENCES"),
        (
            "databricks",
            {
                "databricks_hosts": ("https://a.example.com", "https://b.example.com"),
                "databricks_audiences": ("1",),
                "databricks_scim": True,
            },
            "single workspace",
        ),
        ("jwt", {"key_ring": ""}, "COXSWAIN_AUTH_KEY_RING"),
    ],
    ids=str,
)
async def test_auth_does_not_start_on_settings_that_would_let_anybody_in_or_nobody(
    tmp_path: Path, mode: str, changes: dict[str, Any], words: str
) -> None:
    make_service_keys(tmp_path)
    with pytest.raises(StartError, match=words):
        async with serve_services(tmp_path, settings={"auth": guarded_settings(**changes)}, identity_mode=mode):
            pass
