"""Settings of auth. Each is an environment variable with the prefix `COXSWAIN_AUTH_`."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

EVERY_GROUP = "*"
_SUBJECT_SEPARATOR = "|"


class AuthSettings(BaseSettings):
    """What only auth needs to know."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_AUTH_", extra="ignore")

    key_ring: SecretStr = Field(
        SecretStr(""),
        description="Keys that seal everything secret: id:base64 of 32 bytes, comma separated, newest last.",
    )
    key_ring_file: Path | None = Field(
        None, description="File with the key ring, one id:base64 a line; instead of COXSWAIN_AUTH_KEY_RING."
    )
    principal_seconds: int = Field(
        300, ge=30, le=300, description="Seconds a principal token is valid: the longest a removed member may go on."
    )
    signing_key_seconds: int = Field(
        30 * 24 * 3600, ge=60, description="Seconds a signing key is used before the next one takes its place."
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
    shared_credential_groups: Annotated[tuple[str, ...], NoDecode] | None = Field(
        None,
        description="Groups (comma separated, * for all) that may use credentials of this process's environment; "
        "unset means all in dev mode and none else.",
    )
    providers_file: Path | None = Field(
        None, description="YAML file that tells which environment variables hold LLM providers' keys; empty: packaged."
    )
    bootstrap_admin: str = Field(
        "", description="issuer|subject that becomes the first platform admin and the admin of a first group."
    )
    bootstrap_group: str = Field("default", description="Id of the group made for bootstrap_admin at the first start.")
    grant_retention_seconds: int = Field(
        7 * 24 * 3600, ge=0, description="Seconds that revoked grants are kept for late repetitions of a request."
    )
    cleaning_seconds: float = Field(300, gt=0, description="Seconds between two removals of expired rows.")

    @field_validator("shared_credential_groups", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.signing_key_retire_seconds <= self.principal_seconds:
            raise ValueError(
                "signing_key_retire_seconds has to be more than principal_seconds: tokens are still checked"
            )
        if self.key_ring.get_secret_value() and self.key_ring_file:
            raise ValueError("set either key_ring or key_ring_file")
        issuer, separator, subject = self.bootstrap_admin.partition(_SUBJECT_SEPARATOR)
        if self.bootstrap_admin and not (issuer and separator and subject):
            raise ValueError("bootstrap_admin is written issuer|subject")
        return self
