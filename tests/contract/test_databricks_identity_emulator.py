"""The identity emulator: the real databricks-sdk signs in against it, and what must be refused is refused."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import jwt
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.errors import PermissionDenied, Unauthenticated

from tests.support.databricks_http import ApiFault, bearer_token
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity, User

ME = "/api/2.0/preview/scim/v2/Me"


@pytest.fixture(autouse=True)
def _no_databricks_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("HOST", "TOKEN", "CLIENT_ID", "CLIENT_SECRET", "AUTH_TYPE", "CONFIG_PROFILE", "GROUP_ID"):
        monkeypatch.delenv(f"DATABRICKS_{name}", raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path_factory.mktemp("home") / "none.cfg"))


def sdk(identity: DatabricksIdentity, **credentials: Any) -> WorkspaceClient:
    config = Config(host=identity.url, http_timeout_seconds=60, retry_timeout_seconds=10, **credentials)
    return WorkspaceClient(config=config)


async def get(identity: DatabricksIdentity, path: str, token: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(identity.url + path, headers=headers) as answer:
        return answer.status, await answer.json()


async def ask_token(identity: DatabricksIdentity, client_id: str, secret: str, **form: str) -> tuple[int, Any]:
    data = {"grant_type": "client_credentials"} | form
    headers = {"Authorization": aiohttp.encode_basic_auth(client_id, secret)}
    url = f"{identity.url}/oidc/v1/token"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, data=data) as answer:
        return answer.status, await answer.json()


def test_the_sdk_signs_in_with_a_personal_access_token() -> None:
    with DatabricksIdentity() as identity:
        pat = identity.add_pat(identity.add_user("ann@example.com", groups=["sailors"]))
        me = sdk(identity, token=pat, auth_type="pat").current_user.me()
    assert me.user_name == "ann@example.com"
    assert me.groups is not None
    assert [group.display for group in me.groups] == ["sailors"]


def test_the_sdk_signs_in_as_a_service_principal_and_keeps_its_token() -> None:
    with DatabricksIdentity() as identity:
        identity.add_service_principal("cid", "marked-secret")
        client = sdk(identity, client_id="cid", client_secret="marked-secret", auth_type="oauth-m2m")
        assert client.current_user.me().user_name == "cid"
        assert client.current_user.me().user_name == "cid"
        [token_request] = identity.requests(path="/oidc/v1/token")
        assert identity.requests(path=ME)[0].headers["x-databricks-workspace-id"] == WORKSPACE_ID
    assert token_request.body["scope"] == "all-apis"
    assert "marked-secret" not in repr(identity.log)


def test_the_sdk_acts_as_the_user_whose_forwarded_token_it_is_given() -> None:
    with DatabricksIdentity() as identity:
        token = identity.mint(identity.add_user("ann@example.com"), scopes={"iam.current-user:read"})
        assert sdk(identity, token=token, auth_type="pat").current_user.me().user_name == "ann@example.com"


def test_the_sdk_raises_its_own_errors_for_refused_credentials() -> None:
    with DatabricksIdentity() as identity:
        ann = identity.add_user("ann@example.com")
        with pytest.raises(PermissionDenied, match="Invalid access token"):
            sdk(identity, token="dapi-unknown", auth_type="pat").current_user.me()
        with pytest.raises(PermissionDenied, match="required scopes"):
            narrow = identity.mint(ann, scopes={"vector-search"})
            sdk(identity, token=narrow, auth_type="pat").current_user.me()
        with pytest.raises(Unauthenticated, match="expired"):
            sdk(identity, token=identity.mint(ann, expires_in_s=-5), auth_type="pat").current_user.me()
        with pytest.raises(ValueError, match="invalid_client"):
            identity.add_service_principal("cid", "right")
            sdk(identity, client_id="cid", client_secret="wrong", auth_type="oauth-m2m").current_user.me()


async def test_tokens_verify_with_the_published_keys_before_and_after_a_rotation() -> None:
    async with DatabricksIdentity() as identity:
        ann = identity.add_user("ann@example.com")
        tokens = [identity.mint(ann)]
        for algorithm in ("ES256", "EdDSA"):
            identity.rotate(algorithm)
            tokens.append(identity.mint(ann))
        _, config = await get(identity, "/.well-known/databricks-config")
        assert config["oidc_endpoint"] == identity.issuer
        _, discovery = await get(identity, "/oidc/.well-known/openid-configuration")
        assert (await get(identity, "/oidc/.well-known/oauth-authorization-server"))[1] == discovery
        _, jwks = await get(identity, discovery["jwks_uri"].removeprefix(identity.url))
        keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(jwks).keys}
        for token in tokens:
            head = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                keys[head["kid"]],
                algorithms=[head["alg"]],
                audience=WORKSPACE_ID,
                issuer=discovery["issuer"],
            )
            assert claims["sub"] == "ann@example.com"
            assert (await get(identity, ME, token))[0] == 200
        identity.rotate(retire=True)
        assert [(await get(identity, ME, token))[0] for token in tokens] == [401, 401, 401]


FORGERIES: dict[str, Callable[[DatabricksIdentity, User], str]] = {
    "alg none": lambda identity, user: identity.mint(user, key="none"),
    "unpublished key": lambda identity, user: identity.mint(user, key="foreign"),
    "public key as hmac secret": lambda identity, user: identity.mint(user, key="public_as_hmac"),
    "wrong audience": lambda identity, user: identity.mint(user, claims={"aud": "another-workspace"}),
    "wrong issuer": lambda identity, user: identity.mint(user, claims={"iss": "https://example.com/oidc"}),
    "no expiry": lambda identity, user: identity.mint(user, claims={"exp": None}),
    "no key id": lambda identity, user: identity.mint(user, header={"kid": None}),
    "unknown key id": lambda identity, user: identity.mint(user, header={"kid": "key-99"}),
    "unknown subject": lambda identity, user: identity.mint(user, claims={"sub": "nobody@example.com"}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_token_is_refused(forgery: str) -> None:
    async with DatabricksIdentity() as identity:
        token = FORGERIES[forgery](identity, identity.add_user("ann@example.com"))
        assert (await get(identity, ME, token))[0] == 401


@pytest.mark.parametrize(("answer", "words"), [(400, "ExpiredJwtException"), (401, "expired"), (403, "expired")])
async def test_expiry_is_signalled_in_each_way_the_platform_does(answer: Any, words: str) -> None:
    async with DatabricksIdentity(expiry_answer=answer) as identity:
        token = identity.mint(identity.add_user("ann@example.com"), expires_in_s=100)
        assert (await get(identity, ME, token))[0] == 200
        identity.clock_offset_s = 75
        assert await get(identity, ME, token) == (
            403,
            {"error_code": 403, "message": "Token is expiring within 30 seconds"},
        )
        identity.clock_offset_s = 101
        status, body = await get(identity, ME, token)
    assert status == answer
    assert words in body["message"]


async def test_credentials_that_are_absent_or_revoked_are_told_apart() -> None:
    async with DatabricksIdentity() as identity:
        ann = identity.add_user("ann@example.com")
        pat, token = identity.add_pat(ann), identity.mint(ann)
        assert [(await get(identity, ME, secret))[0] for secret in (pat, token, None)] == [200, 200, 401]
        identity.revoke(pat)
        identity.revoke(token)
        assert [(await get(identity, ME, secret))[0] for secret in (pat, token)] == [403, 403]


async def test_the_token_endpoint_refuses_what_the_platform_refuses() -> None:
    async with DatabricksIdentity(lifetime_s=120) as identity:
        identity.add_service_principal("cid", "s", allowed_scopes={"vector-search"})
        identity.add_user("ann@example.com")
        status, granted = await ask_token(identity, "cid", "s", scope="vector-search")
        assert (status, granted["expires_in"], granted["token_type"]) == (200, 120, "Bearer")
        caller = identity.authenticate({"authorization": f"Bearer {granted['access_token']}"})
        assert (caller.user_name, caller.scopes) == ("cid", frozenset({"vector-search"}))
        status, body = await ask_token(identity, "cid", "s", scope="all-apis")
        assert (status, body["error"]) == (403, "access_denied")
        assert "are not assigned to the client" in body["error_description"]
        assert (await ask_token(identity, "cid", "wrong"))[0] == 401
        assert (await ask_token(identity, "ann@example.com", ""))[0] == 401
        assert (await ask_token(identity, "cid", "s", grant_type="password"))[1]["error"] == "unsupported_grant_type"


async def test_faults_come_on_demand_and_only_as_often_as_asked() -> None:
    async with DatabricksIdentity() as identity:
        pat = identity.add_pat(identity.add_user("ann@example.com"))
        identity.fail(ApiFault(path="/Me", status=503, times=2, error_code=503))
        statuses = [(await get(identity, ME, pat))[0] for _ in range(3)]
        # aiohttp repeats a GET once by itself when the connection ends without an answer.
        identity.fail(ApiFault(path="/Me", drop=True, times=2))
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await get(identity, ME, pat)
    assert statuses == [503, 503, 200]
    assert [exchange.outcome for exchange in identity.log] == ["answered"] * 3 + ["dropped"] * 2


async def test_a_held_request_goes_on_when_released_and_an_abandoned_one_is_logged() -> None:
    async with DatabricksIdentity() as identity:
        pat = identity.add_pat(identity.add_user("ann@example.com"))
        identity.fail(ApiFault(path="/Me", hang=True, times=2))
        pending = asyncio.create_task(get(identity, ME, pat))
        await identity.wait_for_requests(1, held=True)
        identity.release()
        assert (await pending)[0] == 200
        pending = asyncio.create_task(get(identity, ME, pat))
        await identity.wait_for_requests(1, held=True)
        pending.cancel()
        await identity.wait_for_requests(1, outcome="client_disconnected")


async def test_the_log_and_faults_are_reached_over_http() -> None:
    async with DatabricksIdentity(control_prefix="/_identity") as identity, aiohttp.ClientSession() as session:
        faults = json.dumps([{"path": "jwks", "status": 500}])
        async with session.post(f"{identity.url}/_identity/_faults", data=faults) as answer:
            assert await answer.json() == {"added": 1}
        assert (await get(identity, "/oidc/jwks.json"))[0] == 500
        assert (await get(identity, "/oidc/jwks.json"))[0] == 200
        _, log = await get(identity, "/_identity/_log?at_least=2")
        assert [entry["status"] for entry in log["requests"]] == [500, 200]


def test_a_bearer_header_is_read_whatever_the_scheme_case() -> None:
    assert bearer_token({"authorization": "bEaReR abc"}) == "abc"
