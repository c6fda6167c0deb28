"""The verifier of each identity mode."""

from collections.abc import Mapping
from datetime import timedelta

from services.auth.http import JsonClient
from services.auth.identity.databricks import DatabricksVerifier, ScimMe, discovery_url
from services.auth.identity.dev import DevVerifier
from services.auth.identity.jwks import IssuerAddress, KeySet
from services.auth.identity.oidc import JwtVerifier, Trust
from services.auth.identity.verifier import IdentityVerifier
from services.auth.settings import AuthSettings, OidcIssuer, check_address
from services.common.egress import origin_of
from services.common.identity.principal import CredentialKind, Role

_ROLES = {"operator": Role.OPERATOR, "editor": Role.EDITOR, "admin": Role.ADMIN}


def verifier_of(
    mode: str, settings: AuthSettings, http: JsonClient, environment: Mapping[str, str]
) -> IdentityVerifier:
    """Return the verifier of a mode: dev, jwt or databricks.

    Raises:
        ValueError: the settings lack what the mode needs.
    """
    match mode:
        case "dev":
            return DevVerifier()
        case "jwt":
            return _oidc(settings, http)
        case "databricks":
            return _databricks(settings, http, environment)
        case _:
            raise ValueError(f'there is no identity mode "{mode}"')


def _oidc(settings: AuthSettings, http: JsonClient) -> JwtVerifier:
    if not settings.oidc_issuers:
        raise ValueError(
            "jwt mode accepts tokens of the issuers in COXSWAIN_AUTH_OIDC_ISSUERS, which is empty; "
            'example: [{"issuer": "https://example.com", "audiences": ["coxswain"]}]'
        )
    names = [issuer.issuer for issuer in settings.oidc_issuers]
    if len(set(names)) != len(names):
        raise ValueError("an issuer is in COXSWAIN_AUTH_OIDC_ISSUERS twice")
    return JwtVerifier([_trust(issuer, settings, http) for issuer in settings.oidc_issuers])


def _trust(issuer: OidcIssuer, settings: AuthSettings, http: JsonClient) -> Trust:
    address = IssuerAddress(
        issuer=issuer.issuer,
        discovery_url=f"{issuer.issuer.rstrip('/')}/.well-known/openid-configuration",
        jwks_uri=issuer.jwks_uri,
        ca_file=issuer.ca_file,
        token_file=issuer.token_file,
    )
    return Trust(
        keys=_key_set(address, settings, http),
        algorithms=frozenset(issuer.algorithms),
        audiences=frozenset(issuer.audiences),
        client_ids=frozenset(issuer.client_ids),
        # Such a token proves an identity; no other service accepts it from us.
        kind=CredentialKind.WORKLOAD,
        subject_claim=issuer.subject_claim,
        groups_claim=issuer.groups_claim,
        groups={name: (mapping.group, _ROLES[mapping.role]) for name, mapping in issuer.groups.items()},
        leeway_seconds=settings.clock_skew_seconds,
    )


def _databricks(settings: AuthSettings, http: JsonClient, environment: Mapping[str, str]) -> DatabricksVerifier:
    hosts = workspace_hosts(settings, environment)
    if not hosts:
        raise ValueError("databricks mode needs a workspace: set COXSWAIN_AUTH_DATABRICKS_HOSTS or DATABRICKS_HOST")
    if not settings.databricks_audiences and not settings.databricks_client_ids:
        raise ValueError(
            "databricks mode needs COXSWAIN_AUTH_DATABRICKS_AUDIENCES or COXSWAIN_AUTH_DATABRICKS_CLIENT_IDS: "
            "a token made for something else must not open this installation"
        )
    if settings.databricks_scim and len(hosts) > 1:
        raise ValueError("COXSWAIN_AUTH_DATABRICKS_SCIM needs a single workspace: opaque tokens do not name theirs")
    trusts = [
        Trust(
            keys=_key_set(IssuerAddress(f"{host}/oidc", discovery_url(host)), settings, http),
            algorithms=frozenset(settings.databricks_algorithms),
            audiences=frozenset(settings.databricks_audiences),
            client_ids=frozenset(settings.databricks_client_ids),
            kind=CredentialKind.USER,
            origin=host,
            leeway_seconds=settings.clock_skew_seconds,
        )
        for host in hosts
    ]
    session = timedelta(seconds=settings.opaque_session_seconds)
    scim = ScimMe(http, hosts[0], session=session) if settings.databricks_scim else None
    return DatabricksVerifier(JwtVerifier(trusts), scim)


def workspace_hosts(settings: AuthSettings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the origins of the workspaces whose tokens are accepted.

    Raises:
        ValueError: one of them is not an address, or not encrypted.
    """
    named = settings.databricks_hosts or tuple(filter(None, (environment.get("DATABRICKS_HOST", "").strip(),)))
    hosts: dict[str, None] = {}
    for host in named:
        origin = origin_of(host)
        if origin is None:
            raise ValueError(
                f'"{host[:200]}" is not the address of a Databricks workspace; example: https://adb-1.2.azuredatabricks.net'
            )
        check_address(origin)
        hosts[origin] = None
    return tuple(hosts)


def _key_set(address: IssuerAddress, settings: AuthSettings, http: JsonClient) -> KeySet:
    return KeySet(
        http,
        address,
        refresh_seconds=settings.issuer_keys_seconds,
        unknown_key_pause_seconds=settings.unknown_key_pause_seconds,
    )
