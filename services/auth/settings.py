"""Settings of auth. Each is an environment variable with the prefix `COXSWAIN_AUTH_`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.common.egress import Network, origin_of
from services.common.settings import is_loopback

EVERY_GROUP = "*"
SIGNATURE_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_SUBJECT_SEPARATOR = "|"


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class GroupMapping(BaseModel):
    """The group and role that a name in a token's claim stands for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = Field(min_length=1, max_length=128, description="Id of the group.")
    role: Literal["operator", "editor", "admin"] = Field(description="Role in it.")


class OidcIssuer(BaseModel):
    """An OpenID Connect issuer, a Kubernetes cluster among them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(max_length=400, description="Its name: the `iss` of its tokens.")
    audiences: tuple[str, ...] = Field(min_length=1, description="Audiences, one of which a token must carry.")
    client_ids: tuple[str, ...] = Field((), description="Clients (`client_id` or `azp`) tokens may be for; empty: any.")
    algorithms: tuple[str, ...] = Field(("RS256", "ES256"), min_length=1, description="Algorithms it may sign with.")
    jwks_uri: str = Field("", description="Where its keys are; empty: as its discovery document says.")
    ca_file: Path | None = Field(
        None, description="PEM file of authorities, where the system's do not cover its address."
    )
    token_file: Path | None = Field(None, description="Bearer token its address asks for, as Kubernetes does.")
    subject_claim: str = Field("sub", min_length=1, description="Claim that names the subject.")
    groups_claim: str = Field("", description="Claim that lists groups; needs `groups`.")
    groups: Mapping[str, GroupMapping] = Field({}, description="Group and role by name in that claim.")

    @field_validator("issuer", "jwks_uri")
    @classmethod
    def _encrypted(cls, value: str) -> str:
        check_address(value)
        return value

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_algorithms(value)
        return value


def check_address(url: str) -> None:
    """Refuse an address whose answers could be changed on the way.

    Raises:
        ValueError: it is neither HTTPS nor on this machine.
    """
    origin = origin_of(url) if "://" in url else None
    if url and (origin is None or "|" in url):
        raise ValueError("must be an absolute address; example: https://example.com")
    if origin and origin.startswith("http://") and not is_loopback(urlsplit(origin).hostname or ""):
        raise ValueError("must begin with https://, as it is not on this machine")


def check_algorithms(names: tuple[str, ...]) -> None:
    """Refuse algorithms that are not signatures by a private key.

    Raises:
        ValueError: one of them is `none`, a keyed hash, or unknown.
    """
    unfit = set(names) - SIGNATURE_ALGORITHMS
    if unfit:
        raise ValueError(
            f"{', '.join(sorted(unfit))} cannot be used; choose from {', '.join(sorted(SIGNATURE_ALGORITHMS))}"
        )


class AuthSettings(BaseSettings):
    """The settings of auth alone."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_AUTH_", extra="ignore")

    key_ring: SecretStr = Field(
        SecretStr(""),
        description="Keys that seal everything secret: id:base64 of 32 bytes, comma separated, newest last.",
    )
    key_ring_file: Path | None = Field(
        None, description="File with the key ring, one id:base64 a line; instead of COXSWAIN_AUTH_KEY_RING."
    )
    principal_seconds: int = Field(
        300, ge=30, le=300, description="Seconds a principal token is valid: how long a removed member can still act."
    )
    signing_key_seconds: int = Field(
        30 * 24 * 3600, ge=60, description="Seconds a signing key is used before the next one replaces it."
    )
    signing_key_publish_seconds: int = Field(
        900, ge=1, description="Seconds a new signing key is published before it is used."
    )
    signing_key_retire_seconds: int = Field(
        900, ge=1, description="Seconds an old signing key stays published; more than principal_seconds."
    )
    signing_key_refresh_seconds: float = Field(
        30, gt=0, description="Seconds between two looks at the signing keys in the database."
    )
    jwks_max_age_seconds: int = Field(300, ge=1, description="Seconds that verifiers may keep the answer of GetJwks.")
    verified_seconds: float = Field(
        300, ge=0, le=300, description="Seconds a verified credential is remembered, if it does not expire before."
    )
    refused_seconds: float = Field(
        3,
        ge=0,
        le=60,
        description="Seconds a refused credential is remembered, so that it is not checked again and again.",
    )
    credential_seconds: float = Field(
        30,
        ge=0,
        le=300,
        description="Seconds a resolved credential may be cached: how long a deleted secret may be used.",
    )
    oidc_issuers: tuple[OidcIssuer, ...] = Field(
        (), description="JSON list of the issuers whose tokens are accepted in jwt mode."
    )
    databricks_hosts: CommaSeparated = Field(
        (),
        description="Workspaces (comma separated) whose tokens databricks mode accepts; unset: DATABRICKS_HOST.",
    )
    databricks_audiences: CommaSeparated = Field(
        (), description="Audiences (comma separated), one of which a workspace's token must carry."
    )
    databricks_client_ids: CommaSeparated = Field(
        (), description="OAuth clients (comma separated) to one of which a workspace's token must be issued."
    )
    databricks_algorithms: CommaSeparated = Field(
        ("RS256", "ES256"), description="Algorithms (comma separated) that workspaces may sign with."
    )
    databricks_scim: bool = Field(
        False, description="Whether the workspace is asked whose an opaque token (such as a PAT) is."
    )
    opaque_session_seconds: int = Field(
        3600, ge=60, description="Seconds an opaque token, which does not state its expiry, is kept for executions."
    )
    issuer_keys_seconds: float = Field(300, gt=0, description="Seconds until an issuer's keys are read again.")
    unknown_key_pause_seconds: float = Field(
        5, gt=0, description="Least seconds between two readings of an issuer's keys because of unknown key ids."
    )
    issuer_timeout_seconds: float = Field(5, gt=0, description="Seconds an issuer or workspace gets to answer.")
    egress_allowed_networks: list[Network] = Field(
        [],
        description="JSON list of networks besides the public internet that groups' own workspaces may be in; plain "
        'http is allowed there too. Example: ["10.20.0.0/16"].',
    )
    obo_origins: CommaSeparated = Field(
        (),
        description="Origins (comma separated) that tools may send a user's own token to, besides the workspace it "
        "belongs to. Example: https://orders.example.com.",
    )
    sdk_timeout_seconds: float = Field(20, gt=0, description="Seconds databricks-sdk's default chain gets.")
    clock_skew_seconds: float = Field(
        30, ge=0, le=120, description="Seconds that an issuer's clock may be ahead of this machine's."
    )
    shared_credential_groups: CommaSeparated | None = Field(
        None,
        description="Groups (comma separated, * for all) that may use credentials of this process's environment; "
        "unset: all in dev mode, otherwise none.",
    )
    providers_file: Path | None = Field(
        None,
        description="YAML file that names the environment variables of LLM providers' keys; unset: packaged.",
    )
    platform_admins: CommaSeparated = Field(
        (),
        description="Subjects (issuer|subject, comma separated) that administer the installation, besides stored ones.",
    )
    bootstrap_admin: str = Field(
        "", description="issuer|subject that becomes the first platform admin and the admin of a first group."
    )
    bootstrap_group: str = Field("default", description="Id of the group made for bootstrap_admin at the first start.")
    claimed_role_seconds: int = Field(
        30 * 24 * 3600,
        ge=3600,
        le=10 * 365 * 24 * 3600,
        description="Seconds that executions and schedules may act with a role that only a token of their subject's "
        "carried, from when it was shown: the longest they remain after the subject's tokens lost it.",
    )
    service_token_seconds: int = Field(
        366 * 24 * 3600, ge=60, description="Seconds for which a token that an admin makes for a machine may be valid."
    )
    service_tokens_per_group: int = Field(
        100, ge=0, description="Tokens for machines that a group may have, expired ones among them."
    )
    sessions_per_subject: int = Field(
        1000,
        ge=1,
        description="Credentials of one subject that may be in use at the same time; of each is kept, until it "
        "expires, what it proves, and the token where it is a user's own.",
    )
    revocation_retention_seconds: int = Field(
        2 * 366 * 24 * 3600,
        ge=24 * 3600,
        description="Seconds that revocations are kept, at least as long as any credential may be valid: one that is "
        "older and has not expired counts again.",
    )
    revocations_per_group: int = Field(
        100_000, ge=1, description="Subjects whose access a group's admins may have revoked in that time."
    )
    grant_retention_seconds: int = Field(
        7 * 24 * 3600, ge=0, description="Seconds that revoked grants are kept for late repetitions of a request."
    )
    request_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=3600,
        description="Seconds for which a request_id is remembered; a request repeated later is a new one.",
    )
    cleaning_seconds: float = Field(
        300, gt=0, description="Seconds between two removals of expired rows and old requests."
    )

    @field_validator("databricks_algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_algorithms(value)
        return value

    @field_validator("databricks_hosts")
    @classmethod
    def _encrypted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            check_address(host)
        return value

    @field_validator("obo_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            check_address(origin)
            if origin_of(origin) != origin:
                raise ValueError("must be origins: scheme, host and port, no path; example: https://orders.example.com")
        return value

    @field_validator("bootstrap_admin")
    @classmethod
    def _subject(cls, value: str) -> str:
        issuer, _, subject = value.partition(_SUBJECT_SEPARATOR)
        if value and not (issuer and subject):
            raise ValueError("must be written issuer|subject; example: https://example.com|alice")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.signing_key_retire_seconds <= self.principal_seconds:
            raise ValueError(
                "COXSWAIN_AUTH_SIGNING_KEY_RETIRE_SECONDS must be more than COXSWAIN_AUTH_PRINCIPAL_SECONDS: "
                "tokens are checked until they expire"
            )
        if self.signing_key_publish_seconds <= self.jwks_max_age_seconds + self.signing_key_refresh_seconds:
            raise ValueError(
                "COXSWAIN_AUTH_SIGNING_KEY_PUBLISH_SECONDS must be more than COXSWAIN_AUTH_JWKS_MAX_AGE_SECONDS and "
                "COXSWAIN_AUTH_SIGNING_KEY_REFRESH_SECONDS together: verifiers must know a key before it signs"
            )
        if self.revocation_retention_seconds < self.service_token_seconds:
            raise ValueError(
                "COXSWAIN_AUTH_REVOCATION_RETENTION_SECONDS must be at least COXSWAIN_AUTH_SERVICE_TOKEN_SECONDS: a "
                "token that was revoked would count again"
            )
        if self.key_ring.get_secret_value() and self.key_ring_file:
            raise ValueError("set either COXSWAIN_AUTH_KEY_RING or COXSWAIN_AUTH_KEY_RING_FILE, not both")
        return self
