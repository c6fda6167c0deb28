"""Who a caller is, and in which group they act."""

import time
from collections.abc import Awaitable

import jwt
from grpc import StatusCode

from coxswain.auth.v1 import credential_pb2, delegation_pb2, principal_pb2
from coxswain.common.v1 import access_pb2
from tests.integration.auth.support import internal, public, refused
from tests.support.harness import Harness


async def test_no_credential_is_the_admin_of_the_default_group(auth: Harness) -> None:
    me = await public(auth, "").WhoAmI(principal_pb2.WhoAmIRequest())
    assert (me.principal.subject, me.principal.group_id) == ("dev|dev", "default")
    assert me.principal.role == access_pb2.ROLE_ADMIN
    assert me.principal.platform_admin
    assert [(group.group_id, group.role) for group in me.groups] == [("default", access_pb2.ROLE_ADMIN)]


async def test_a_caller_of_several_groups_names_one(auth: Harness) -> None:
    bearer = "dev:alice:sales=editor,legal=operator"
    me = await public(auth, bearer).WhoAmI(principal_pb2.WhoAmIRequest())
    assert me.principal.group_id == ""
    assert [(group.group_id, group.role) for group in me.groups] == [("legal", 2), ("sales", 3)]
    explain = credential_pb2.ExplainCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
    with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED") as refusal:
        await public(auth, bearer).ExplainCredential(explain)
    assert refusal.metadata["groups"] == "legal,sales"
    await public(auth, bearer, group="legal").ExplainCredential(explain)
    me = await public(auth, bearer, group="sales").WhoAmI(principal_pb2.WhoAmIRequest())
    assert (me.principal.group_id, me.principal.role) == ("sales", access_pb2.ROLE_EDITOR)


async def test_nobody_acts_in_a_group_they_are_not_in(auth: Harness) -> None:
    with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER") as refusal:
        await public(auth, "dev:alice:sales=admin", group="legal").WhoAmI(principal_pb2.WhoAmIRequest())
    assert refusal.metadata["group"] == "legal"


async def test_a_caller_without_any_group_is_told_so(auth: Harness) -> None:
    me = await public(auth, "dev:nobody").WhoAmI(principal_pb2.WhoAmIRequest())
    assert (me.principal.group_id, list(me.groups)) == ("", [])
    with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED"):
        await public(auth, "").ExchangeToken(principal_pb2.ExchangeTokenRequest(authorization="Bearer dev:nobody"))


async def test_malformed_development_credentials_are_refused(auth: Harness) -> None:
    stub = public(auth, "")
    malformed = ["Bearer dev:", "Bearer dev:a b:g=admin", "Bearer dev:a:g=owner", "Bearer dev:a:g=admin,g=operator"]
    malformed += ["Bearer dev:a:=admin", "Bearer something-else", "Basic abc", "Bearer", "dev:a:g=admin"]
    for value in malformed:
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
            await stub.ExchangeToken(principal_pb2.ExchangeTokenRequest(authorization=value))


async def test_a_principal_token_says_one_group_for_at_most_five_minutes(auth: Harness) -> None:
    answer = await public(auth, "").ExchangeToken(
        principal_pb2.ExchangeTokenRequest(authorization="Bearer dev:alice:sales=editor,legal=admin", group_id="sales")
    )
    claims = jwt.decode(answer.principal_token, options={"verify_signature": False})
    # Of the time that is left: the token says since when its principal is known, which may be seconds earlier.
    assert claims["exp"] - time.time() <= 300
    assert (claims["iss"], claims["sub"], claims["grp"], claims["rol"]) == ("coxswain-auth", "dev|alice", "sales", 3)
    keys = {key.kid: key.x for key in (await public(auth, "").GetJwks(principal_pb2.GetJwksRequest())).keys}
    header = jwt.get_unverified_header(answer.principal_token)
    key = jwt.PyJWK({"kty": "OKP", "crv": "Ed25519", "x": keys[header["kid"]]})
    jwt.decode(answer.principal_token, key, algorithms=["EdDSA"])


async def test_a_principal_or_service_token_is_never_a_credential(auth: Harness) -> None:
    stub = public(auth, "")
    token = (await stub.ExchangeToken(principal_pb2.ExchangeTokenRequest())).principal_token
    service_token = auth.host._identity("models").token_for("auth")
    for own in (token, service_token):
        for request in (
            principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {own}"),
            principal_pb2.ExchangeTokenRequest(forwarded_access_token=own),
        ):
            with refused(StatusCode.UNAUTHENTICATED, "PRINCIPAL_NOT_ACCEPTED"):
                await stub.ExchangeToken(request)
        with refused(StatusCode.UNAUTHENTICATED, "PRINCIPAL_NOT_ACCEPTED"):
            await public(auth, own).WhoAmI(principal_pb2.WhoAmIRequest())


async def test_internal_methods_do_not_exist_on_the_public_listener(auth: Harness) -> None:
    stub = public(auth, "")
    calls: list[Awaitable[object]] = [
        stub.ResolveCredential(
            credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
        ),
        stub.CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="e")),
        stub.IssueExecutionPrincipal(delegation_pb2.IssueExecutionPrincipalRequest(grant_id="g", execution_id="e")),
        stub.RenewDelegation(delegation_pb2.RenewDelegationRequest(execution_id="e")),
        stub.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id="e")),
    ]
    for call in calls:
        with refused(StatusCode.UNIMPLEMENTED, ""):
            await call


async def test_a_service_without_a_principal_may_not_act_for_anybody(auth: Harness) -> None:
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"):
        await internal(auth, "models").ResolveCredential(
            credential_pb2.ResolveCredentialRequest(
                purpose=credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, provider="openai"
            )
        )
