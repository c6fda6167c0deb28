"""Databricks mode: who a workspace's token stands for, and what it is then used for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from coxswain.auth.v1 import credential_pb2, delegation_pb2, principal_pb2
from services.auth.settings import AuthSettings
from services.common.db.database import Database
from services.common.grpc.call import acting_as
from tests.integration.auth.support import exchange, guarded_settings, internal, make_service_keys, refused, stub, who
from tests.support.databricks_http import ApiFault
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity, User
from tests.support.harness import Harness, serve_services

ME = "/api/2.0/preview/scim/v2/Me"


def settings_for(identity: DatabricksIdentity, **changes: Any) -> AuthSettings:
    values: dict[str, Any] = {
        "databricks_hosts": (identity.url,),
        "databricks_audiences": (WORKSPACE_ID,),
        "databricks_client_ids": ("databricks-app",),
        "bootstrap_admin": f"{identity.issuer}|ann@example.com",
    }
    return guarded_settings(**(values | changes))


@pytest.fixture
async def identity() -> AsyncIterator[DatabricksIdentity]:
    async with DatabricksIdentity() as identity:
        yield identity


@pytest.fixture
async def ann(identity: DatabricksIdentity) -> User:
    return identity.add_user("ann@example.com")


@pytest.fixture
async def auth(tmp_path: Path, identity: DatabricksIdentity) -> AsyncIterator[Harness]:
    make_service_keys(tmp_path)
    settings = {"auth": settings_for(identity)}
    async with serve_services(tmp_path, settings=settings, identity_mode="databricks") as harness:
        yield harness


async def test_a_workspace_token_proves_its_user_in_either_header(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    token = identity.mint(ann)
    for me in (
        await who(auth, token),
        await stub(auth, forwarded=token).WhoAmI(principal_pb2.WhoAmIRequest()),
    ):
        assert me.principal.subject == f"{identity.issuer}|ann@example.com"
        assert (me.principal.group_id, me.principal.role, me.principal.platform_admin) == ("sales", 4, True)
        assert me.principal.credential_kind == principal_pb2.CREDENTIAL_KIND_USER
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
        await stub(auth, token, forwarded=token).WhoAmI(principal_pb2.WhoAmIRequest())


FORGERIES: dict[str, Callable[[DatabricksIdentity, User], str]] = {
    "alg none": lambda identity, user: identity.mint(user, key="none"),
    "unpublished key": lambda identity, user: identity.mint(user, key="foreign"),
    "public key as hmac secret": lambda identity, user: identity.mint(user, key="public_as_hmac"),
    "wrong audience": lambda identity, user: identity.mint(user, claims={"aud": "another-workspace"}),
    "no audience": lambda identity, user: identity.mint(user, claims={"aud": None}),
    "wrong issuer": lambda identity, user: identity.mint(user, claims={"iss": "https://example.com/oidc"}),
    "no issuer": lambda identity, user: identity.mint(user, claims={"iss": None}),
    "wrong client": lambda identity, user: identity.mint(user, client_id="another-app"),
    "no expiry": lambda identity, user: identity.mint(user, claims={"exp": None}),
    "expiry as text": lambda identity, user: identity.mint(user, claims={"exp": "tomorrow"}),
    "endless expiry": lambda identity, user: identity.mint(user, claims={"exp": 10**30}),
    "not valid yet": lambda identity, user: identity.mint(user, claims={"nbf": 4_000_000_000}),
    "no key id": lambda identity, user: identity.mint(user, header={"kid": None}),
    "unknown key id": lambda identity, user: identity.mint(user, header={"kid": "key-99"}),
    "key id as number": lambda identity, user: identity.mint(user, header={"kid": 1}),
    "no subject": lambda identity, user: identity.mint(user, claims={"sub": None}),
    "subject as list": lambda identity, user: identity.mint(user, claims={"sub": ["ann@example.com"]}),
    "subject with control characters": lambda identity, user: identity.mint(user, claims={"sub": "ann\n@example.com"}),
    "very long": lambda identity, user: identity.mint(user, claims={"padding": "x" * 20_000}),
    "personal access token": lambda identity, user: identity.add_pat(user),
    "symmetric algorithm": lambda identity, user: identity.mint(user, header={"alg": "HS512"}),
    "no credential": lambda identity, user: "",
    "dev credential": lambda identity, user: "dev:ann:sales=admin",
    "a forwarded name": lambda identity, user: "ann@example.com",
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_token_proves_nothing(
    auth: Harness, identity: DatabricksIdentity, ann: User, forgery: str
) -> None:
    token = FORGERIES[forgery](identity, ann)
    reason = "CREDENTIAL_REJECTED" if token else "CREDENTIAL_MISSING"
    with refused(StatusCode.UNAUTHENTICATED, reason) as refusal:
        await who(auth, token)
    assert not token or token not in refusal.message
    assert not identity.requests(path=ME)


async def test_an_expired_token_is_told_from_a_refused_one(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
        await who(auth, identity.mint(ann, expires_in_s=-1))


async def test_a_new_key_is_found_when_a_token_first_names_it_and_a_withdrawn_one_is_not(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    await who(auth, identity.mint(ann))
    old = identity.mint(ann)
    identity.rotate("ES256")
    await who(auth, identity.mint(ann))
    identity.rotate(retire=True)
    await who(auth, identity.mint(ann))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
        await who(auth, old)
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
        # EdDSA is not among the algorithms workspaces may use by default.
        identity.rotate("EdDSA")
        await who(auth, identity.mint(ann))


async def test_unknown_key_ids_do_not_make_auth_ask_the_workspace_all_the_time(
    tmp_path: Path, identity: DatabricksIdentity, ann: User
) -> None:
    make_service_keys(tmp_path)
    settings = {"auth": settings_for(identity, unknown_key_pause_seconds=1000)}
    async with serve_services(tmp_path, settings=settings, identity_mode="databricks") as auth:
        await who(auth, identity.mint(ann))
        asked = len(identity.requests(path="jwks.json"))
        for number in range(20):
            with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
                await who(auth, identity.mint(ann, header={"kid": f"made-up-{number}"}))
        assert len(identity.requests(path="jwks.json")) == asked


async def test_known_keys_outlive_an_outage_of_the_workspace(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    await who(auth, identity.mint(ann))
    identity.fail(ApiFault(path="/oidc", status=503, times=None))
    await who(auth, identity.mint(ann))


async def test_an_outage_before_any_key_is_known_says_nothing_about_the_caller(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    identity.fail(ApiFault(path="/oidc", status=503, times=None))
    with refused(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE") as refusal:
        await who(auth, identity.mint(ann))
    assert refusal.metadata["dependency"] == identity.url
    identity.clear_faults()
    await who(auth, identity.mint(ann))


async def test_many_callers_with_one_token_are_verified_once(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    token = identity.mint(ann)
    await asyncio.gather(*(who(auth, token) for _ in range(30)))
    assert len(identity.requests(path="jwks.json")) == 1


async def test_discovery_of_another_issuer_is_not_believed(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    body = '{"issuer": "https://example.com/oidc", "jwks_uri": "https://example.com/keys"}'
    identity.fail(ApiFault(path="oauth-authorization-server", status=200, body=body, times=None))
    with refused(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
        await who(auth, identity.mint(ann))


async def test_the_users_token_goes_to_its_workspace_and_nowhere_else(
    auth: Harness, identity: DatabricksIdentity, ann: User
) -> None:
    token = identity.mint(ann)
    request = credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH)
    with acting_as(await exchange(auth, token)):
        answer = await internal(auth, "memory").ResolveCredential(request)
        assert (answer.token, answer.origin, answer.link) == (token, identity.url, "user_token")
        assert answer.on_behalf_of_user
        request.destination_origin = "https://example.com"
        with refused(StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED"):
            await internal(auth, "memory").ResolveCredential(request)


async def test_the_users_token_is_stored_sealed_only(
    auth: Harness, identity: DatabricksIdentity, ann: User, tmp_path: Path
) -> None:
    token = identity.mint(ann)
    await exchange(auth, token)
    signature = token.rpartition(".")[2].encode()
    stored = _contents(tmp_path)
    assert b"ann@example.com" in stored
    assert signature not in stored
    assert token.encode() not in stored


def _contents(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def expire_sessions(directory: Path) -> None:
    database = Database(f"sqlite:///{directory / 'auth.db'}", "auth")
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE credential_sessions SET expires_at = '2001-01-01 00:00:00.000000'")
    await database.close()


async def test_a_user_whose_token_has_expired_never_gets_another_identity(
    tmp_path: Path, identity: DatabricksIdentity, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", identity.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-the-operator")
    make_service_keys(tmp_path)
    settings = {"auth": settings_for(identity, shared_credential_groups=("*",), credential_seconds=0)}
    async with serve_services(tmp_path, settings=settings, identity_mode="databricks") as auth:
        with acting_as(await exchange(auth, identity.mint(ann))):
            await expire_sessions(tmp_path)
            for purpose in (
                credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS,
                credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH,
            ):
                with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED") as refusal:
                    await internal(auth, "models").ResolveCredential(
                        credential_pb2.ResolveCredentialRequest(purpose=purpose)
                    )
                assert refusal.metadata == {"link": "user_token"}


@pytest.mark.parametrize(
    ("on_expiry", "outcome"),
    [
        (delegation_pb2.ON_CREDENTIAL_EXPIRY_UNSPECIFIED, "PARK"),
        (delegation_pb2.ON_CREDENTIAL_EXPIRY_PARK, "PARK"),
        (delegation_pb2.ON_CREDENTIAL_EXPIRY_FAIL, "FAIL"),
        (delegation_pb2.ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY, "goes on"),
    ],
)
async def test_an_execution_whose_users_token_expires_does_what_its_starter_chose(
    auth: Harness, identity: DatabricksIdentity, ann: User, tmp_path: Path, on_expiry: Any, outcome: str
) -> None:
    with acting_as(await exchange(auth, identity.mint(ann))):
        granted = await internal(auth).CreateDelegation(
            delegation_pb2.CreateDelegationRequest(execution_id="run-1", on_credential_expiry=on_expiry)
        )
    assert granted.identity == delegation_pb2.EXECUTION_IDENTITY_USER
    request = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id="run-1")
    principal = (await internal(auth).IssueExecutionPrincipal(request)).principal
    assert principal.credential_kind == principal_pb2.CREDENTIAL_KIND_USER
    await expire_sessions(tmp_path)
    if outcome == "goes on":
        principal = (await internal(auth).IssueExecutionPrincipal(request)).principal
        assert principal.credential_kind == principal_pb2.CREDENTIAL_KIND_GROUP
        return
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED") as refusal:
        await internal(auth).IssueExecutionPrincipal(request)
    assert refusal.metadata == {"execution_id": "run-1", "on_credential_expiry": outcome}
    fresh = identity.mint(ann)
    with acting_as(await exchange(auth, fresh)):
        await internal(auth).RenewDelegation(delegation_pb2.RenewDelegationRequest(execution_id="run-1"))
    with acting_as((await internal(auth).IssueExecutionPrincipal(request)).principal_token):
        answer = await internal(auth, "models").ResolveCredential(
            credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
        )
    assert answer.token == fresh


async def test_a_principal_never_outlives_its_token(auth: Harness, identity: DatabricksIdentity, ann: User) -> None:
    me = await who(auth, identity.mint(ann, expires_in_s=60))
    assert me.principal.expire_time.ToSeconds() <= identity.now() + 60


async def test_opaque_tokens_are_asked_about_where_that_is_switched_on(
    tmp_path: Path, identity: DatabricksIdentity, ann: User
) -> None:
    make_service_keys(tmp_path)
    settings = {"auth": settings_for(identity, databricks_scim=True, verified_seconds=0)}
    pat = identity.add_pat(ann)
    async with serve_services(
        tmp_path, settings=settings, identity_mode="databricks", principal_cache_seconds=0
    ) as auth:
        assert (await who(auth, pat)).principal.subject == f"{identity.issuer}|ann@example.com"
        with acting_as(await exchange(auth, pat)):
            request = credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
            assert (await internal(auth, "models").ResolveCredential(request)).token == pat
        # A token of the workspace is verified here: the workspace is not asked.
        asked = len(identity.requests(path=ME))
        await who(auth, identity.mint(ann))
        assert len(identity.requests(path=ME)) == asked
        identity.fail(ApiFault(path=ME, status=429, times=1))
        with refused(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await who(auth, pat)
        identity.fail(ApiFault(path=ME, status=400, message="io.jsonwebtoken.ExpiredJwtException: JWT expired"))
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
            await who(auth, pat)
        identity.revoke(pat)
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
            await who(auth, pat)


async def test_users_interleaved_never_get_each_others_token(
    auth: Harness, identity: DatabricksIdentity, ann: User, tmp_path: Path
) -> None:
    users = {"ann": ann, "bob": identity.add_user("bob@example.com")}
    database = Database(f"sqlite:///{tmp_path / 'auth.db'}", "auth")
    async with database.write() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO memberships VALUES ('sales', ?, 3, '2025-01-01 00:00:00.000000', NULL)",
            (f"{identity.issuer}|bob@example.com",),
        )
    await database.close()
    tokens = {name: identity.mint(user) for name, user in users.items()}
    principals = {name: await exchange(auth, token) for name, token in tokens.items()}
    memory = internal(auth, "memory")
    request = credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH)

    async def one(name: str) -> None:
        with acting_as(principals[name]):
            assert (await memory.ResolveCredential(request)).token == tokens[name]

    for _ in range(5):
        await asyncio.gather(*(one(name) for name in list(users) * 50))
