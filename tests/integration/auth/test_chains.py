"""Every combination of what links may say, in every chain, in environments full of traps."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from services.auth.chains import names
from services.auth.chains.chain import Chain
from services.auth.chains.environment import EnvironmentLink, SharedGroups, read_providers
from services.auth.chains.link import CredentialRequest, Link
from services.auth.chains.oauth_client import ClientCredentials, OAuthClientLink
from services.auth.chains.sdk_default import SdkDefaultLink
from services.auth.chains.stored_secret import StoredSecretLink
from services.auth.chains.user_token import UserTokenLink
from services.auth.domain import CredentialPurpose, CredentialReference, LinkOutcome, VerifiedIdentity
from services.auth.http import JsonClient
from services.auth.identity.sessions import SessionStore
from services.auth.keys.ring import KeyRing
from services.auth.keys.vault import Vault
from services.auth.usecases.credentials import Credentials
from services.auth.usecases.secrets import Secrets
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.egress import AddressPolicy
from services.common.errors import CoxswainError, PermissionDenied, Unauthenticated, Unavailable
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind, Principal, Role
from tests.support.databricks_http import ApiFault
from tests.support.databricks_identity import DatabricksIdentity
from tests.support.service_tables import make_service_tables
from tests.support.waiting import PATIENCE

ELSEWHERE = "https://elsewhere.example.com"
OBO, STORED, ENV_PAT, PROFILE_PAT = "obo-marked", "stored-marked", "env-marked", "profile-marked"
SHARED = SharedGroups(("*",))
PROVIDERS = read_providers(None)
USER_STATES = ("absent", "present", "expired", "elsewhere")
OAUTH_STATES = ("absent", "present", "rejected", "elsewhere", "operators", "operators elsewhere")
STORED_STATES = ("absent", "present", "elsewhere", "unreadable")
ENVIRONMENT_STATES = ("absent", "present", "rejected", "elsewhere", "not shared")
SDK_STATES = ("absent", "present", "rejected", "service principal")


@dataclass
class World:
    """Links in each of their states, and a group for each combination of stored secrets."""

    identity: DatabricksIdentity
    database: Database
    vault: Vault
    sessions: SessionStore
    secrets: Secrets
    http: JsonClient
    directory: Path
    user_sessions: dict[str, str]
    pollution: Mapping[str, str]

    def stored(self, name: str) -> StoredSecretLink:
        return StoredSecretLink(name, self.database, self.vault)

    def principal(self, state: str, group_id: str) -> Principal:
        kind = CredentialKind.WORKLOAD if state == "absent" else CredentialKind.USER
        return Principal(
            subject="issuer|ann",
            group_id=group_id,
            role=Role.OPERATOR,
            platform_admin=False,
            credential_kind=kind,
            session_id=self.user_sessions.get(state, ""),
            execution_id="",
            expires_at=utc_now() + timedelta(minutes=5),
        )

    def environment(self, state: str) -> EnvironmentLink:
        host = {"elsewhere": ELSEWHERE, "rejected": "not a host"}.get(state, self.identity.url)
        token = {} if state == "absent" else {"DATABRICKS_TOKEN": ENV_PAT}
        shared = SharedGroups(("another",)) if state == "not shared" else SHARED
        return EnvironmentLink(shared, PROVIDERS, {**self.pollution, **token, "DATABRICKS_HOST": host})

    def sdk(self, state: str) -> SdkDefaultLink:
        profiles = {
            "present": f"token = {PROFILE_PAT}",
            "rejected": "token = told-token\nusername = told-name\npassword = told-password",
            "service principal": "client_id = cid\nclient_secret = right",
        }
        environment = dict(self.pollution) | {"PATH": os.environ["PATH"], "HOME": str(self.directory)}
        file = self.directory / f"{state}.cfg"
        file.write_text(f"[chosen]\nhost = {self.identity.url}\n{profiles[state]}\n" if state in profiles else "")
        environment["DATABRICKS_CONFIG_FILE"] = str(file)
        if state in profiles:
            environment["DATABRICKS_CONFIG_PROFILE"] = "chosen"
        environment.pop("DATABRICKS_HOST", None)
        return SdkDefaultLink(SHARED, environment, timeout_seconds=60)

    async def unreadable(self, group_id: str, name: str) -> None:
        async with self.database.write() as connection:
            await connection.exec_driver_sql(
                "UPDATE secrets SET key_id = 'lost' WHERE group_id = ? AND name = ?", (group_id, name)
            )


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    url = f"sqlite:///{tmp_path / 'auth.db'}"
    make_service_tables("auth", url)
    database = Database(url, "auth")
    vault = Vault(database, KeyRing([("k1", b"1" * 32)]))
    await vault.start()
    sessions = SessionStore(database, vault, most=100)
    policy = AddressPolicy([ip_network("127.0.0.0/8")], setting="X")
    http = JsonClient(policy, timeout_seconds=10)
    async with DatabricksIdentity() as identity:
        identity.add_service_principal("cid", "right")
        pollution = {
            "DATABRICKS_AUTH_TYPE": "oauth-m2m",
            "DATABRICKS_GROUP_ID": "42",
            "DATABRICKS_CLUSTER_ID": "0000",
            "DATABRICKS_USERNAME": "somebody",
            "DATABRICKS_PASSWORD": "somebodys",
            "ARM_CLIENT_ID": "arm",
            "ARM_CLIENT_SECRET": "arm-secret",
            "ARM_TENANT_ID": "arm-tenant",
            "GOOGLE_CREDENTIALS": "{}",
        }
        # Not only in what links are given: libraries read the process's own environment.
        for name, value in pollution.items():
            monkeypatch.setenv(name, value)
        user_sessions = {}
        for state, origin, left in (
            ("present", identity.url, 3600),
            ("expired", identity.url, 20),
            ("elsewhere", ELSEWHERE, 3600),
        ):
            found = VerifiedIdentity(
                "issuer|ann", CredentialKind.USER, utc_now() + timedelta(seconds=left), origin=origin
            )
            token = OBO if state == "present" else f"{OBO}-{state}"
            user_sessions[state] = (await sessions.open(Credential(f"Bearer {token}"), found)).id
        secrets = Secrets(database, vault, changed=lambda group_id: None)
        yield World(identity, database, vault, sessions, secrets, http, tmp_path, user_sessions, pollution)
    await http.close()
    await database.close()


def expected(states: list[tuple[str, str]]) -> tuple[str, str]:
    """What a chain comes to, by links and states in order: (link, "used") or (link, reason)."""
    for link, state in states:
        match state:
            case "present" | "operators":
                return link, "used"
            case "expired":
                return link, "CREDENTIAL_EXPIRED"
            case "rejected":
                return link, "CREDENTIAL_REJECTED"
            case "elsewhere":
                return link, "DESTINATION_NOT_ALLOWED"
            case "unreadable":
                return "lost", "KEY_UNAVAILABLE"
    return "", "CREDENTIAL_NOT_CONFIGURED"


async def outcome(credentials: Credentials, principal: Principal, purpose: CredentialPurpose, **asked: str) -> Any:
    try:
        found = await credentials.resolve(principal, CredentialReference(purpose, **asked))
    except CoxswainError as error:
        return error.metadata.get("key_id") or error.metadata.get("link", ""), error.reason
    assert found.origin == asked["destination"]
    return found.link, "used", found.token


async def check(
    links: list[Link],
    principal: Principal,
    purpose: CredentialPurpose,
    steps: list[tuple[str, str]],
    **asked: str,
) -> str:
    """Compare resolution and explanation with what the states promise; return the token."""
    credentials = Credentials({purpose: Chain(links)}, keep=timedelta(0))
    want = expected(steps)
    got = await outcome(credentials, principal, purpose, **asked)
    # The callers here are no admins: what is wrong with a credential of the operator's they are not told.
    hidden = want[0] in {"environment", "sdk_default"} and want[1] != "used"
    assert got[:2] == (("", "CREDENTIAL_NOT_CONFIGURED") if hidden else want), (steps, got[:2])
    reference = CredentialReference(purpose, **asked)
    explanation, again = await credentials.explain_all(principal, [reference, reference])
    assert again == explanation
    assert (await credentials.explain(principal, reference)).origin == explanation.origin
    explained, origin = explanation.links, explanation.origin
    assert [link.link for link in explained] == [name for name, _ in steps]
    assert (origin is not None) == (want[1] == "used")
    ended = [link.link for link in explained if link.outcome not in (LinkOutcome.ABSENT, LinkOutcome.NOT_REACHED)]
    if want[1] != "KEY_UNAVAILABLE":
        assert ended == ([want[0]] if want[0] else [])
    text = " ".join(link.detail for link in explained)
    assert "marked" not in text.replace("databricks/", "")
    return got[2] if len(got) == 3 else ""


async def store(world: World, group_id: str, name: str, state: str, value: str) -> None:
    if state in ("absent", "operators", "operators elsewhere"):
        return
    origin = ELSEWHERE if state == "elsewhere" else world.identity.url
    await world.secrets.put(group_id, name, value, [origin])
    if state == "unreadable":
        await world.unreadable(group_id, name)


async def test_the_general_chain_in_every_combination(world: World) -> None:
    client_credentials = ClientCredentials(world.http, refused=timedelta(minutes=5))
    operators = {"DATABRICKS_CLIENT_ID": "cid", "DATABRICKS_CLIENT_SECRET": "right"}
    environments = {
        "operators": operators | {"DATABRICKS_HOST": world.identity.url},
        "operators elsewhere": operators | {"DATABRICKS_HOST": ELSEWHERE},
    }
    for oauth, stored in itertools.product(OAUTH_STATES, STORED_STATES):
        group_id = f"{oauth}-{stored}"
        client = {"client_id": "cid", "client_secret": "wrong" if oauth == "rejected" else "right"}
        await store(world, group_id, names.OAUTH_CLIENT, oauth, json.dumps(client))
        await store(world, group_id, names.DATABRICKS_API_KEY, stored, STORED)
    tokens: dict[str, set[str]] = {}
    combinations = itertools.product(USER_STATES, OAUTH_STATES, STORED_STATES, ENVIRONMENT_STATES)
    for user, oauth, stored, environment in combinations:
        links: list[Link] = [
            UserTokenLink(world.sessions),
            OAuthClientLink(
                client_credentials,
                world.stored(names.OAUTH_CLIENT),
                SHARED,
                {**world.pollution, **environments.get(oauth, {})},
            ),
            world.stored(names.DATABRICKS_API_KEY),
            world.environment(environment),
        ]
        steps = [
            ("user_token", user),
            ("oauth_client", oauth),
            ("stored_secret", stored),
            ("environment", environment),
        ]
        token = await check(
            links,
            world.principal(user, f"{oauth}-{stored}"),
            CredentialPurpose.DATABRICKS,
            steps,
            destination=world.identity.url,
        )
        if token:
            tokens.setdefault(expected(steps)[0], set()).add(token)
    assert tokens["user_token"] == {OBO}
    assert tokens["stored_secret"] == {STORED}
    assert tokens["environment"] == {ENV_PAT}
    # The group's client and the operator's are the same one here, each with a token of its own for all combinations.
    assert len(tokens["oauth_client"]) == 2
    granted = world.identity.requests(path="/oidc/v1/token", status=200)
    assert len(granted) == 2
    assert len(world.identity.requests(path="/oidc/v1/token", status=401)) == 1
    await client_credentials.close()


async def test_the_vector_search_chain_in_every_combination(world: World) -> None:
    sdks = {state: world.sdk(state) for state in SDK_STATES}
    for stored in STORED_STATES:
        await store(world, stored, names.DATABRICKS_PAT, stored, STORED)
    tokens: dict[str, set[str]] = {}
    for user, stored, environment, sdk in itertools.product(USER_STATES, STORED_STATES, ENVIRONMENT_STATES, SDK_STATES):
        links: list[Link] = [
            UserTokenLink(world.sessions),
            world.stored(names.DATABRICKS_PAT),
            world.environment(environment),
            sdks[sdk],
        ]
        steps = [("user_token", user), ("stored_secret", stored), ("environment", environment), ("sdk_default", sdk)]
        principal = world.principal(user, stored)
        token = await check(links, principal, CredentialPurpose.VECTOR_SEARCH, steps, destination=world.identity.url)
        if token:
            tokens.setdefault(expected(steps)[0], set()).add(token)
    assert tokens == {
        "user_token": {OBO},
        "stored_secret": {STORED},
        "environment": {ENV_PAT},
        "sdk_default": {PROFILE_PAT},
    }
    # A service principal is left out before a token for it is asked for.
    assert not world.identity.requests(path="/oidc/v1/token")
    for link in sdks.values():
        await link.close()


async def test_the_provider_chain_in_every_combination(world: World) -> None:
    for stored in STORED_STATES:
        await store(world, stored, "llm/openai", stored, STORED)
    for user, stored, environment in itertools.product(USER_STATES, STORED_STATES, ENVIRONMENT_STATES):
        base_url = {"elsewhere": ELSEWHERE, "rejected": "not an address"}.get(environment, world.identity.url)
        variables = {**world.pollution, "OPENAI_BASE_URL": base_url}
        if environment != "absent":
            variables["OPENAI_API_KEY"] = ENV_PAT
        shared = SharedGroups(()) if environment == "not shared" else SHARED
        links: list[Link] = [world.stored(names.LLM_KEY), EnvironmentLink(shared, PROVIDERS, variables)]
        token = await check(
            links,
            world.principal(user, stored),
            CredentialPurpose.LLM_PROVIDER,
            [("stored_secret", stored), ("environment", environment)],
            destination=world.identity.url,
            provider="openai",
        )
        # A provider's key is never the user's workspace token.
        assert OBO not in token


# Traps of databricks-sdk, each met by what the links do instead


async def test_an_sdk_profile_is_never_swapped_for_a_service_principal_of_the_environment(world: World) -> None:
    link = world.sdk("present")
    polluted = {"DATABRICKS_CLIENT_ID": "cid", "DATABRICKS_CLIENT_SECRET": "right", "DATABRICKS_TOKEN": ENV_PAT}
    os.environ.update(polluted)
    try:
        answer = await link.ask(_request(world))
    finally:
        for name in polluted:
            del os.environ[name]
    assert (answer.outcome, answer.token) == (LinkOutcome.USED, PROFILE_PAT)
    assert "(pat)" in answer.detail
    assert not world.identity.requests(path="/oidc/v1/token")
    await link.close()


async def test_nothing_of_the_environment_that_could_be_a_credential_reaches_the_sdk(world: World) -> None:
    link = world.sdk("present")
    assert set(link._environment) == {"PATH", "HOME"}


async def test_a_host_that_hangs_costs_no_more_than_its_time(world: World) -> None:
    link = world.sdk("present")
    link._timeout_seconds = 4
    world.identity.fail(ApiFault(path="databricks-config", hang=True, times=None))
    with pytest.raises(Unavailable) as refusal:
        await asyncio.wait_for(link.ask(_request(world)), PATIENCE)
    assert refusal.value.metadata == {"dependency": "databricks-sdk"}
    # It is remembered: nobody waits for it again.
    asked = len(world.identity.requests())
    for _ in range(3):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(link.ask(_request(world)), PATIENCE)
    assert len(world.identity.requests()) == asked
    await link.close()


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"DATABRICKS_API_KEY": "key"}, "DATABRICKS_API_KEY"),
        ({"DATABRICKS_TOKEN": "token", "DATABRICKS_API_KEY": "key"}, "DATABRICKS_TOKEN"),
        ({"DATABRICKS_TOKEN": " ", "DATABRICKS_API_KEY": "key"}, "DATABRICKS_API_KEY"),
        ({"DATABRICKS_TOKEN": "", "DATABRICKS_API_KEY": ""}, ""),
    ],
)
async def test_the_operators_token_is_read_from_either_variable(
    world: World, variables: dict[str, str], used: str
) -> None:
    link = EnvironmentLink(SHARED, PROVIDERS, {**variables, "DATABRICKS_HOST": world.identity.url})
    answer = await link.ask(_request(world))
    assert (answer.outcome is LinkOutcome.USED, answer.token) == (bool(used), variables.get(used, ""))
    assert answer.detail == (used or "DATABRICKS_TOKEN and DATABRICKS_API_KEY are not set")


async def test_what_the_sdk_says_about_its_configuration_is_not_passed_on(world: World) -> None:
    link = world.sdk("rejected")
    answer = await link.ask(_request(world))
    assert answer.outcome is LinkOutcome.REJECTED
    for told in ("told", "username", world.identity.url):
        assert told not in answer.detail
    await link.close()


async def test_the_users_token_needs_no_sdk_and_no_call(world: World) -> None:
    answer = await UserTokenLink(world.sessions).ask(_request(world, "present"))
    assert (answer.token, answer.on_behalf_of_user) == (OBO, True)
    assert world.identity.requests() == []


async def test_a_lost_user_token_is_never_replaced_by_the_environments(world: World) -> None:
    principal = world.principal("present", "g")
    links: list[Link] = [UserTokenLink(world.sessions), world.environment("present")]
    credentials = Credentials({CredentialPurpose.VECTOR_SEARCH: Chain(links)}, keep=timedelta(0))
    async with world.database.write() as connection:
        await connection.exec_driver_sql("DELETE FROM credential_sessions")
    with pytest.raises(Unauthenticated):
        await credentials.resolve(principal, CredentialReference(CredentialPurpose.VECTOR_SEARCH))


# OAuth client credentials


async def test_a_token_endpoint_of_another_origin_does_not_get_the_secret(world: World) -> None:
    await store(world, "g", names.OAUTH_CLIENT, "present", '{"client_id": "cid", "client_secret": "right"}')
    async with DatabricksIdentity() as thief:
        document = {"issuer": world.identity.issuer, "token_endpoint": f"{thief.url}/oidc/v1/token"}
        world.identity.fail(ApiFault(path="oauth-authorization-server", status=200, body=json.dumps(document)))
        link = oauth_link(world)
        answer = await link.ask(_request(world))
        assert answer.outcome is LinkOutcome.REJECTED
        assert "another origin" in answer.detail
        assert thief.requests() == []


async def test_an_outage_of_the_workspace_is_no_refusal(world: World) -> None:
    await store(world, "g", names.OAUTH_CLIENT, "present", '{"client_id": "cid", "client_secret": "right"}')
    for fault in (
        ApiFault(path="/oidc/v1/token", status=503),
        ApiFault(path="/oidc/v1/token", status=429),
        ApiFault(path="/oidc/v1/token", drop=True),
        ApiFault(path="oauth-authorization-server", status=500),
    ):
        world.identity.fail(fault)
        with pytest.raises(Unavailable):
            await oauth_link(world).ask(_request(world))


async def test_a_groups_workspace_in_the_networks_around_us_is_not_called(world: World) -> None:
    await store(world, "g", names.OAUTH_CLIENT, "present", '{"client_id": "cid", "client_secret": "right"}')
    http = JsonClient(AddressPolicy(setting="COXSWAIN_AUTH_EGRESS_ALLOWED_NETWORKS"), timeout_seconds=5)
    link = OAuthClientLink(ClientCredentials(http, refused=timedelta(0)), world.stored(names.OAUTH_CLIENT), SHARED, {})
    with pytest.raises(PermissionDenied) as refusal:
        await link.ask(_request(world))
    assert refusal.value.reason == "DESTINATION_NOT_ALLOWED"
    await world.secrets.put(
        "g", names.OAUTH_CLIENT, '{"client_id": "c", "client_secret": "s"}', ["https://localhost:1"]
    )
    with pytest.raises(PermissionDenied):
        await link.ask(_request(world))
    assert world.identity.requests() == []
    await http.close()


async def test_a_changed_secret_gets_a_token_of_its_own(world: World) -> None:
    link = oauth_link(world)
    await store(world, "g", names.OAUTH_CLIENT, "present", '{"client_id": "cid", "client_secret": "right"}')
    assert (await link.ask(_request(world))).outcome is LinkOutcome.USED
    await store(world, "g", names.OAUTH_CLIENT, "present", '{"client_id": "cid", "client_secret": "wrong"}')
    assert (await link.ask(_request(world))).outcome is LinkOutcome.REJECTED


def oauth_link(world: World) -> OAuthClientLink:
    credentials = ClientCredentials(world.http, refused=timedelta(0))
    return OAuthClientLink(credentials, world.stored(names.OAUTH_CLIENT), SHARED, {})


def _request(world: World, user: str = "absent") -> CredentialRequest:
    return CredentialRequest(world.principal(user, "g"), CredentialPurpose.VECTOR_SEARCH)


@pytest.mark.parametrize("state", USER_STATES)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    "destination", ["workspace", ELSEWHERE, "https://tools.example.com", "https://evil.example.com"]
)
async def test_tools_get_a_users_own_token_for_listed_origins_and_nothing_in_its_place(
    world: World, state: str, listed: bool, destination: str
) -> None:
    """The environment and the group are full of other credentials."""
    also_to = ("https://tools.example.com",) if listed else ()
    links: list[Link] = [UserTokenLink(world.sessions, also_to)]
    credentials = Credentials({CredentialPurpose.TOOL_CALLER: Chain(links)}, keep=timedelta(0))
    principal = world.principal(state, "group")
    origin = world.identity.url if destination == "workspace" else destination
    found = await outcome(credentials, principal, CredentialPurpose.TOOL_CALLER, destination=origin)
    own = ELSEWHERE if state == "elsewhere" else world.identity.url
    if state == "absent":
        assert found[1] == "CREDENTIAL_NOT_CONFIGURED"
    elif state == "expired":
        assert found[1] == "CREDENTIAL_EXPIRED"
    elif origin in (own, *also_to):
        assert found[1:] == ("used", OBO if state == "present" else f"{OBO}-elsewhere")
    else:
        assert found[1] == "DESTINATION_NOT_ALLOWED"
