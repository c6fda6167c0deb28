"""Generated attempts to be somebody else, or to reach what is somebody else's: not one succeeds.

By default two thousand of them are made; `make test-large` makes ten thousand.
"""

import asyncio
import base64
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coxswain.auth.v1 import credential_pb2, delegation_pb2, group_pb2, principal_pb2, secret_pb2
from coxswain.common.v1 import access_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.grpc.call import acting_as
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.identity.principal_token import TOKEN_TYPE, encode_principal
from services.common.identity.service_identity import TOKEN_TYPE as SERVICE_TOKEN_TYPE
from tests.integration.auth.support import calling_service, exchange, guarded_settings, internal, make_service_keys
from tests.support.child_process import WAIT_SECONDS
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity, User
from tests.support.harness import Harness, serve_services

BATCHES, MANY_BATCHES, BATCH = 100, 500, 20
REFUSALS = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}
AUTH, SECRETS, GROUPS = (f"/coxswain.auth.v1.{name}Service/" for name in ("Auth", "Secret", "Group"))

PUBLIC_METHODS: list[tuple[str, Message]] = [
    (
        AUTH + "ExplainCredential",
        credential_pb2.ExplainCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS),
    ),
    (SECRETS + "ListSecrets", secret_pb2.ListSecretsRequest()),
    (SECRETS + "DeleteSecret", secret_pb2.DeleteSecretRequest(name="llm/openai")),
    (SECRETS + "PutSecret", secret_pb2.PutSecretRequest(name="a", value="b", allowed_origins=["https://example.com"])),
    (GROUPS + "ListMembers", group_pb2.ListMembersRequest()),
    (GROUPS + "SetMember", group_pb2.SetMemberRequest(subject="x|mallory", role=access_pb2.ROLE_ADMIN)),
]
PLATFORM_METHODS: list[tuple[str, Message]] = [
    (GROUPS + "CreateGroup", group_pb2.CreateGroupRequest(display_name="x", admin_subject="x|mallory")),
    (GROUPS + "ListGroups", group_pb2.ListGroupsRequest()),
    (GROUPS + "DeleteGroup", group_pb2.DeleteGroupRequest(id="sales", confirm_id="sales")),
]
INTERNAL_METHODS: list[tuple[str, Message]] = [
    (
        AUTH + "ResolveCredential",
        credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS),
    ),
    (
        AUTH + "ExplainCredentials",
        credential_pb2.ExplainCredentialsRequest(
            credentials=[credential_pb2.ExplainCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)]
        ),
    ),
    (AUTH + "CreateDelegation", delegation_pb2.CreateDelegationRequest(execution_id="stolen")),
    (AUTH + "RenewDelegation", delegation_pb2.RenewDelegationRequest(execution_id="bobs-run")),
    (AUTH + "RevokeDelegation", delegation_pb2.RevokeDelegationRequest(execution_id="bobs-run")),
]


@dataclass(frozen=True)
class Attempt:
    """A call that must fail."""

    name: str
    method: str
    request: Message
    metadata: tuple[tuple[str, str], ...]
    on_internal: bool = False


@dataclass
class World:
    """Auth with two tenants: Ann of "sales" attacks, Bob of "legal" has what she wants."""

    loop: asyncio.AbstractEventLoop
    harness: Harness
    identity: DatabricksIdentity
    ann: User
    bob: User
    tokens: dict[str, str]
    principals: dict[str, str]
    grant_id: str
    public: grpc.aio.Channel
    internal: grpc.aio.Channel

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def service_token(self, name: str = "orchestrator", audience: str = "auth") -> str:
        return self.harness.host._identity(name).token_for(audience)

    async def refused(self, attempt: Attempt) -> str:
        """Return what is wrong with the outcome of an attempt; empty when it was refused properly."""
        channel = self.internal if attempt.on_internal else self.public
        try:
            await caller(channel, attempt.method)(attempt.request, metadata=attempt.metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            if error.code() not in REFUSALS:
                return f"{attempt.name}: {attempt.method}: {error.code()} {error.details()}"
            if any(token in (error.details() or "") for token in self.tokens.values()):
                return f"{attempt.name}: a token came back"
            return ""
        return f"{attempt.name}: {attempt.method} succeeded"


def caller(channel: grpc.aio.Channel, method: str, answer: type[Message] | None = None) -> Any:
    """Return a method called without a stub: the call carries the metadata it is given and nothing else."""
    decode = answer.FromString if answer is not None else None
    return channel.unary_unary(
        method, request_serializer=lambda message: message.SerializeToString(), response_deserializer=decode
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Served from a thread of its own, as hypothesis runs its examples without an event loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    directory = tmp_path_factory.mktemp("attacks")
    opened: list[World] = []
    closing = asyncio.Event()
    ready = threading.Event()
    serving = asyncio.run_coroutine_threadsafe(_serve(loop, directory, opened, ready, closing), loop)
    assert ready.wait(WAIT_SECONDS), "auth did not start"
    if serving.done():
        serving.result()
    yield opened[0]
    loop.call_soon_threadsafe(closing.set)
    serving.result(WAIT_SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


async def _serve(
    loop: asyncio.AbstractEventLoop,
    directory: Path,
    opened: list[World],
    ready: threading.Event,
    closing: asyncio.Event,
) -> None:
    try:
        async with DatabricksIdentity() as identity:
            make_service_keys(directory)
            chosen = guarded_settings(
                databricks_hosts=(identity.url,),
                databricks_audiences=(WORKSPACE_ID,),
                bootstrap_admin=f"{identity.issuer}|root@example.com",
                refused_seconds=1,
                unknown_key_pause_seconds=5,
            )
            async with serve_services(directory, settings={"auth": chosen}, identity_mode="databricks") as harness:
                await _add_members(directory, identity.issuer)
                opened.append(await _world(loop, harness, identity))
                ready.set()
                await closing.wait()
    finally:
        ready.set()


async def _add_members(directory: Path, issuer: str) -> None:
    database = Database(f"sqlite:///{directory / 'auth.db'}", "auth")
    async with database.write() as connection:
        now = "2025-01-01 00:00:00.000000"
        await connection.exec_driver_sql("INSERT INTO groups VALUES ('legal', 'legal', ?)", (now,))
        for group_id, name in (("sales", "ann"), ("legal", "bob")):
            member = (group_id, f"{issuer}|{name}@example.com", int(Role.ADMIN), now)
            await connection.exec_driver_sql("INSERT INTO memberships VALUES (?, ?, ?, ?, NULL)", member)
    await database.close()


async def _world(loop: asyncio.AbstractEventLoop, harness: Harness, identity: DatabricksIdentity) -> World:
    users = {name: identity.add_user(f"{name}@example.com") for name in ("ann", "bob")}
    tokens = {name: identity.mint(user) for name, user in users.items()}
    principals = {name: await exchange(harness, token) for name, token in tokens.items()}
    with acting_as(principals["bob"]):
        granted = await internal(harness).CreateDelegation(
            delegation_pb2.CreateDelegationRequest(execution_id="bobs-run")
        )
    return World(
        loop=loop,
        harness=harness,
        identity=identity,
        ann=users["ann"],
        bob=users["bob"],
        tokens=tokens,
        principals=principals,
        grant_id=granted.grant_id,
        public=grpc.aio.insecure_channel(harness.address),
        internal=grpc.aio.insecure_channel(harness.internal_address),
    )


def segments(header: dict[str, Any], claims: dict[str, Any], signature: bytes) -> str:
    def encoded(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    return ".".join(encoded(part) for part in (json.dumps(header).encode(), json.dumps(claims).encode(), signature))


def altered(token: str, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Return a signed token with other contents under the old signature."""
    old_header = jwt.get_unverified_header(token)
    old_claims = jwt.decode(token, options={"verify_signature": False})
    signature = base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")
    return segments(old_header | header, old_claims | claims, signature)


junk = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
claim_names = st.sampled_from(["sub", "iss", "aud", "exp", "client_id", "grp", "rol", "pad", "sid", "knd", "scope"])
claim_values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), junk, st.lists(junk, max_size=2), st.just("legal")
)
claims = st.dictionaries(claim_names, claim_values, min_size=1, max_size=4)
headers = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "jku", "jwk", "x5u", "crit", "b64"]), claim_values, max_size=3
)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


Make = Callable[[World, st.DataObject], Attempt]


def forged_user_token(world: World, data: st.DataObject) -> Attempt:
    """Tokens that the workspace never signed, or not for us, or not for now."""
    mint: Any = lambda **how: world.identity.mint(world.bob, **how)  # noqa: E731
    kind = data.draw(st.sampled_from(["none", "foreign", "public_as_hmac", "aud", "iss", "exp", "altered", "junk"]))
    match kind:
        case "none" | "foreign" | "public_as_hmac":
            token = mint(key=kind, header=data.draw(headers | st.just({})) if kind == "foreign" else {})
        case "aud":
            token = mint(claims={"aud": data.draw(st.one_of(junk, st.lists(junk, max_size=3)))})
        case "iss":
            token = mint(claims={"iss": data.draw(junk)})
        case "exp":
            token = mint(expires_in_s=-data.draw(st.integers(1, 10**6)))
        case "altered":
            token = altered(mint(), data.draw(headers), {"sub": "bob@example.com"} | data.draw(claims))
            if token == world.tokens["bob"]:
                token += "x"
        case _:
            token = data.draw(junk)
    where = data.draw(st.booleans())
    metadata = bearer(token) if where else (("x-forwarded-access-token", token),)
    method, request = data.draw(st.sampled_from(PUBLIC_METHODS + PLATFORM_METHODS))
    return Attempt(f"user token {kind}", method, request, (*metadata, ("x-group-id", "legal")))


def own_token_as_credential(world: World, data: st.DataObject) -> Attempt:
    """Bob's principal, or a service's token, sent as if it were a caller's."""
    token = data.draw(
        st.sampled_from([world.principals["bob"], world.service_token(), world.service_token("models", "memory")])
    )
    if data.draw(st.booleans()):
        as_header = data.draw(st.booleans())
        field = {"authorization": f"Bearer {token}"} if as_header else {"forwarded_access_token": token}
        return Attempt("replay as credential", AUTH + "ExchangeToken", principal_pb2.ExchangeTokenRequest(**field), ())
    method, request = data.draw(st.sampled_from(PUBLIC_METHODS))
    return Attempt("replay as bearer", method, request, bearer(token))


def internal_headers_on_the_public_port(world: World, data: st.DataObject) -> Attempt:
    """Headers that count only between services."""
    metadata = [("x-coxswain-principal", world.principals["bob"])]
    if data.draw(st.booleans()):
        metadata.append(("x-coxswain-service", world.service_token()))
    if data.draw(st.booleans()):
        metadata += bearer(world.tokens["ann"])
    method, request = data.draw(st.sampled_from(PUBLIC_METHODS + PLATFORM_METHODS + INTERNAL_METHODS))
    return Attempt("internal headers outside", method, request, tuple(metadata))


def internal_method_on_the_public_port(world: World, data: st.DataObject) -> Attempt:
    method, request = data.draw(st.sampled_from(INTERNAL_METHODS))
    return Attempt("internal method outside", method, request, bearer(world.tokens["ann"]))


def another_group(world: World, data: st.DataObject) -> Attempt:
    """Ann, who is nobody in "legal", names it in whatever way."""
    name = data.draw(st.sampled_from(["legal", "LEGAL", "sales,legal", "legal ", "*", "../legal", "%6cegal"]) | junk)
    if name.strip() == "sales" or not name.strip():
        name = "legal"
    method, request = data.draw(st.sampled_from(PUBLIC_METHODS))
    extra = data.draw(st.sampled_from(["x-group", "x-forwarded-email", "x-forwarded-user", "group-id", "x-tenant"]))
    metadata = (*bearer(world.tokens["ann"]), (extra, "bob@example.com"), ("x-group-id", name))
    return Attempt("another group", method, request, metadata)


def a_name_without_a_token(world: World, data: st.DataObject) -> Attempt:
    """Headers that name somebody, as a proxy might set them."""
    header = data.draw(
        st.sampled_from(["x-forwarded-email", "x-forwarded-user", "x-forwarded-preferred-username", "x-user", "cookie"])
    )
    method, request = data.draw(st.sampled_from(PUBLIC_METHODS + PLATFORM_METHODS))
    scheme = data.draw(st.sampled_from(["", "Basic ", "Bearer ", "Bearer dev:", "dev:", "Negotiate "]))
    metadata = ((header, "bob@example.com"), ("authorization", scheme + "bob"), ("x-group-id", "legal"))
    return Attempt("a name only", method, request, metadata)


def beyond_the_role(world: World, data: st.DataObject) -> Attempt:
    """An admin of a group is no platform admin."""
    method, request = data.draw(st.sampled_from(PLATFORM_METHODS))
    return Attempt("beyond the role", method, request, bearer(world.tokens["ann"]))


def forged_service(world: World, data: st.DataObject) -> Attempt:
    """Anything but a token that a service signed for auth within the last minute, beside Bob's real principal."""
    method, request = data.draw(st.sampled_from(INTERNAL_METHODS + PUBLIC_METHODS))
    service = calling_service(method)
    key = Ed25519PrivateKey.from_private_bytes(data.draw(st.binary(min_size=32, max_size=32)))
    now = int(time.time())
    body: dict[str, Any] = {"iss": service, "aud": "auth", "iat": now, "exp": now + 60}
    kind = data.draw(st.sampled_from(["audience", "key", "none", "altered", "principal", "user", "path", "absent"]))
    match kind:
        case "audience":
            token = world.service_token(service, data.draw(st.sampled_from(["models", "memory", "orchestrator"])))
        case "key":
            token = jwt.encode(body, key, algorithm="EdDSA", headers={"typ": SERVICE_TOKEN_TYPE})
        case "none":
            token = segments({"alg": "none", "typ": SERVICE_TOKEN_TYPE}, body, b"")
        case "altered":
            changes = data.draw(
                st.dictionaries(st.sampled_from(["aud", "exp", "iss", "iat"]), claim_values, min_size=1)
            )
            token = altered(world.service_token(service, "memory"), data.draw(headers), {"aud": "auth"} | changes)
        case "principal":
            token = world.principals["ann"]
        case "user":
            token = world.tokens["ann"]
        case "path":
            issuer = data.draw(st.sampled_from(["../services/auth", "/etc/passwd", "auth.key", "nobody", ""]))
            token = jwt.encode(body | {"iss": issuer}, key, algorithm="EdDSA", headers={"typ": SERVICE_TOKEN_TYPE})
        case _:
            token = ""
    metadata = [("x-coxswain-principal", world.principals["bob"])]
    if token:
        metadata.append(("x-coxswain-service", token))
    return Attempt(f"service token {kind}", method, request, tuple(metadata), on_internal=True)


def another_service(world: World, data: st.DataObject) -> Attempt:
    """A true service beside a true principal, where the method serves others."""
    method, request = data.draw(st.sampled_from(INTERNAL_METHODS))
    others = {"auth", "models", "orchestrator"} - {calling_service(method)}
    service = data.draw(st.sampled_from(sorted(others)))
    metadata = (("x-coxswain-service", world.service_token(service)), ("x-coxswain-principal", world.principals["bob"]))
    return Attempt("another service", method, request, metadata, on_internal=True)


def forged_principal(world: World, data: st.DataObject) -> Attempt:
    """A true service, tricked into passing on a principal that auth never signed."""
    now = utc_now()
    claimed = Principal(
        subject=f"{world.identity.issuer}|bob@example.com",
        group_id="legal",
        role=Role.ADMIN,
        platform_admin=True,
        credential_kind=data.draw(st.sampled_from(CredentialKind)),
        session_id="",
        execution_id="",
        expires_at=now + timedelta(minutes=5),
    )
    key = Ed25519PrivateKey.from_private_bytes(data.draw(st.binary(min_size=32, max_size=32)))
    kid = jwt.get_unverified_header(world.principals["ann"])["kid"]
    kind = data.draw(st.sampled_from(["key", "unknown kid", "none", "altered", "service", "user", "junk", "late"]))
    match kind:
        case "key":
            token = encode_principal(claimed, key, kid)
        case "unknown kid":
            token = encode_principal(claimed, key, data.draw(junk))
        case "none":
            token = segments({"alg": "none", "typ": TOKEN_TYPE, "kid": kid}, {"iss": "coxswain-auth"}, b"")
        case "altered":
            token = altered(world.principals["ann"], data.draw(headers), {"grp": "legal"} | data.draw(claims))
        case "service":
            token = world.service_token()
        case "user":
            token = world.tokens["bob"]
        case "late":
            # Truly signed by auth, but past its time.
            late = dataclasses.replace(claimed, expires_at=now - timedelta(seconds=data.draw(st.integers(2, 10**6))))
            token = world.harness.services["auth"]._signing_keys.signed(late).token  # type: ignore[attr-defined]
        case _:
            token = data.draw(junk) or "x"
    method, request = data.draw(st.sampled_from(INTERNAL_METHODS[:3] + PUBLIC_METHODS))
    service = world.service_token(calling_service(method))
    metadata = (("x-coxswain-service", service), ("x-coxswain-principal", token))
    return Attempt(f"principal {kind}", method, request, metadata, on_internal=True)


def stolen_ids(world: World, data: st.DataObject) -> Attempt:
    """Ann inside her own group, with ids of Bob's."""
    service = ("x-coxswain-service", world.service_token())
    acting = (service, ("x-coxswain-principal", world.principals["ann"]))
    execution_id = data.draw(st.sampled_from(["anns-run", "bobs-run ", "BOBS-RUN", "stolen"]) | junk.filter(bool))
    grant_id = data.draw(st.sampled_from([world.grant_id.upper(), world.grant_id + " ", "0"]) | junk.filter(bool))
    choices: list[tuple[str, Message]] = [
        (AUTH + "RenewDelegation", delegation_pb2.RenewDelegationRequest(execution_id="bobs-run")),
        (
            AUTH + "IssueExecutionPrincipal",
            delegation_pb2.IssueExecutionPrincipalRequest(grant_id=world.grant_id, execution_id=execution_id),
        ),
        (
            AUTH + "IssueExecutionPrincipal",
            delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id="bobs-run"),
        ),
        (SECRETS + "DeleteSecret", secret_pb2.DeleteSecretRequest(name="llm/openai")),
        (GROUPS + "RemoveMember", group_pb2.RemoveMemberRequest(subject=f"{world.identity.issuer}|bob@example.com")),
    ]
    method, request = data.draw(st.sampled_from(choices))
    return Attempt("stolen ids", method, request, acting, on_internal=True)


ATTACKS: list[Make] = [
    forged_user_token,
    own_token_as_credential,
    internal_headers_on_the_public_port,
    internal_method_on_the_public_port,
    another_group,
    a_name_without_a_token,
    beyond_the_role,
    forged_service,
    another_service,
    forged_principal,
    stolen_ids,
]


def test_those_who_may_do_get_in(world: World) -> None:
    """What the attempts below vary is right to begin with: else their refusal would prove nothing."""
    for name, group_id in (("ann", "sales"), ("bob", "legal")):
        for metadata in (bearer(world.tokens[name]), (*bearer(world.tokens[name]), ("x-group-id", group_id))):
            request: Message = secret_pb2.ListSecretsRequest()
            world.run(_called(world.public, SECRETS + "ListSecrets", request, metadata))
        method, request = INTERNAL_METHODS[0]
        acting = (
            ("x-coxswain-service", world.service_token(calling_service(method))),
            ("x-coxswain-principal", world.principals[name]),
        )
        world.run(_called(world.internal, method, request, acting))


async def _called(
    channel: grpc.aio.Channel,
    method: str,
    request: Message,
    metadata: tuple[tuple[str, str], ...],
    answer: type[Message] | None = None,
) -> Any:
    return await caller(channel, method, answer)(request, metadata=metadata)


@pytest.mark.timeout(600)
@settings(max_examples=BATCHES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_attempt_succeeds(world: World, data: st.DataObject) -> None:
    _attempt(world, data)


@pytest.mark.large
@pytest.mark.timeout(600)
@settings(max_examples=MANY_BATCHES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_attempt_of_many_succeeds(world: World, data: st.DataObject) -> None:
    _attempt(world, data)


def _attempt(world: World, data: st.DataObject) -> None:
    attempts = [data.draw(st.sampled_from(ATTACKS))(world, data) for _ in range(BATCH)]

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(world.refused(attempt) for attempt in attempts))

    assert [wrong for wrong in world.run(all_of_them()) if wrong] == []


def test_nothing_was_changed_by_them(world: World) -> None:
    """Runs after the attempts: Bob's run still has its grant, and no member or group came."""
    issued = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=world.grant_id, execution_id="bobs-run")
    acting = (("x-coxswain-service", world.service_token()),)
    method, kind = AUTH + "IssueExecutionPrincipal", delegation_pb2.IssueExecutionPrincipalResponse
    answer = world.run(_called(world.internal, method, issued, acting, kind))
    assert answer.principal.group_id == "legal"
    method, members = GROUPS + "ListMembers", group_pb2.ListMembersResponse
    request = group_pb2.ListMembersRequest()
    listed = world.run(_called(world.public, method, request, bearer(world.tokens["bob"]), members))
    assert [member.subject for member in listed.members] == [f"{world.identity.issuer}|bob@example.com"]
