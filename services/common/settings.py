"""Settings every service shares. Each is an environment variable with the prefix `COXSWAIN_`."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.db.database import async_url
from services.common.environment import read_settings

SERVICES = ("auth", "models", "memory", "orchestrator")
"""The services, in the order they start."""
PARTS = {"tools": "orchestrator"}
"""Processes beside the services that have a key and listeners of their own, and the service whose package and database
each one shares."""

_PORTS = {"orchestrator": 50051, "auth": 50052, "models": 50053, "memory": 50054, "tools": 50055}
_INTERNAL_PORT_OFFSET = 100
_PART_MESSAGE_BYTES = 24 * 1024 * 1024


def _check_url(url: str) -> str:
    if url:
        async_url(url)
    return url


DatabaseUrl = Annotated[str, AfterValidator(_check_url)]
UpstreamHost = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[A-Za-z0-9][A-Za-z0-9._:-]*$")]
"""A host's name or address without scheme, port and path; `*.example.com` stands for all below a domain."""


class CommonSettings(BaseSettings):
    """What all services of one process share."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_", extra="ignore")

    host: str = Field("127.0.0.1", description="Address to serve on.")
    port: int | None = Field(None, ge=0, le=65535, description="Port of the public listener; 0 picks a free one.")
    data_dir: Path = Field(Path(".coxswain"), description="Directory of databases, keys and caches.")
    database_url: DatabaseUrl = Field(
        "", description="Database of all services; empty means one SQLite file each in data_dir."
    )
    direct_database_url: DatabaseUrl = Field(
        "",
        description="Where database_url leads through a pooler: the same PostgreSQL without one, for what needs a "
        "session of its own.",
    )
    migrate: Literal["auto", "check", ""] = Field(
        "",
        description='"auto" upgrades the schema at start, "check" refuses to start; empty: auto on SQLite, else check.',
    )
    database_wait_seconds: float = Field(
        30, ge=0, le=600, description="Seconds that a database which is away at the start is waited for."
    )
    identity_mode: Literal["dev", "jwt", "databricks"] = Field(
        "dev", description="How callers prove who they are; dev works on loopback only."
    )
    keys_dir: Path | None = Field(None, description="Directory of service keys; empty means data_dir/keys.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    audit_log: str = Field(
        "", description='File of the audit log, "stderr" or "off"; empty means audit.log in data_dir (docs/audit.md).'
    )
    drain_seconds: float = Field(30, ge=0, description="Seconds that running calls get to finish on SIGTERM.")
    principal_cache_seconds: float = Field(
        60, ge=0, le=300, description="Seconds a verified caller is remembered: how long a removed member can continue."
    )
    peer_timeout_seconds: float = Field(60, gt=0, description="Seconds a call to another service may take by default.")
    max_message_bytes: int = Field(4 * 1024 * 1024, ge=65536, description="Largest message, in bytes, both ways.")
    max_concurrent_calls: int = Field(
        2000, ge=1, description="Calls a listener works on at once, streams apart; more are refused."
    )
    max_group_calls: int = Field(1000, ge=1, description="Calls of one group that a listener works on at once.")
    max_connection_calls: int = Field(
        1000,
        ge=1,
        description="Calls and streams open at once on one connection to a public listener; gRPC refuses more.",
    )
    max_open_streams: int = Field(5000, ge=1, description="Streams open at once on a listener; more are refused.")
    max_group_streams: int = Field(2500, ge=1, description="Streams that one group may have open on a listener.")
    max_subject_streams: int = Field(1000, ge=1, description="Streams that one subject may have open on a listener.")
    tls_certificate_file: Path | None = Field(
        None, description="PEM certificate chain; with tls_key_file it switches TLS on."
    )
    tls_key_file: Path | None = Field(None, description="PEM private key of the certificate.")
    tls_ca_file: Path | None = Field(
        None, description="PEM authorities of the services' certificates; switches mutual TLS on between services."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of Prometheus metrics over HTTP; 0 means none.")
    traces: Literal["off", "otlp"] = Field(
        "off",
        description='"otlp" sends traces by OpenTelemetry to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names '
        "(docs/tracing.md).",
    )
    trace_upstreams: list[UpstreamHost] = Field(
        [],
        description="Hosts outside of the installation that get the traceparent of requests to them, as a JSON list; "
        '"*.example.com" names all below a domain. Others learn nothing of traces.',
    )
    null_pool: bool | None = Field(
        None,
        validation_alias=AliasChoices("USE_NULLPOOL", "COXSWAIN_NULL_POOL"),
        description="Opens a database connection for each transaction (USE_NULLPOOL); unset: behind a pooler.",
    )

    @property
    def keys_directory(self) -> Path:
        """Directory of service keys."""
        return self.keys_dir or self.data_dir / "keys"

    def refuse_unsafe_identity(self) -> None:
        """Refuse development identities wherever others could reach this process.

        Raises:
            ValueError: dev mode on an address that is not loopback, or inside Kubernetes.
        """
        if self.identity_mode != "dev":
            return
        remedy = "set COXSWAIN_IDENTITY_MODE to jwt or databricks"
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            raise ValueError(f"development identities are refused inside Kubernetes: {remedy}")
        if not is_loopback(self.host):
            raise ValueError(
                f"development identities are refused on {self.host}, where others can reach them: "
                f"{remedy}, or serve on 127.0.0.1"
            )


class ServiceSettings(BaseSettings):
    """Where one service listens, is found and stores its rows; the prefix is `COXSWAIN_<SERVICE>_`."""

    model_config = SettingsConfigDict(extra="ignore")

    host: str = Field("", description="Address to serve on instead of COXSWAIN_HOST.")
    port: int | None = Field(None, ge=0, le=65535, description="Port of the public listener.")
    internal_port: int | None = Field(None, ge=0, le=65535, description="Port of the internal listener.")
    address: str = Field("", description="Where other services find its internal listener. Example: dns:///auth:50152.")
    database_url: DatabaseUrl = Field("", description="Its database instead of COXSWAIN_DATABASE_URL.")
    direct_database_url: DatabaseUrl = Field("", description="Instead of COXSWAIN_DIRECT_DATABASE_URL.")

    @classmethod
    def of(cls, service: str) -> "ServiceSettings":
        """Read the settings of one service. Raises SettingsError."""
        return read_settings(cls, f"COXSWAIN_{service.upper()}_")


def public_port(common: CommonSettings, service: str) -> int:
    """Return the port of a service that runs alone."""
    chosen = ServiceSettings.of(service).port
    if chosen is None:
        chosen = common.port
    return _PORTS[service] if chosen is None else chosen


def internal_port(service: str) -> int:
    """Return the internal port of a service that runs alone."""
    chosen = ServiceSettings.of(service).internal_port
    return _PORTS[service] + _INTERNAL_PORT_OFFSET if chosen is None else chosen


def peer_address(service: str) -> str:
    """Return the gRPC target of a service's internal listener."""
    return ServiceSettings.of(service).address or f"127.0.0.1:{internal_port(service)}"


def service_of(name: str) -> str:
    """Return the service that a process is, or is a part of."""
    return PARTS.get(name, name)


def message_bytes(name: str, configured: int) -> int:
    """Return the largest message to and from a process; results of tools are larger than all others."""
    return max(configured, _PART_MESSAGE_BYTES) if name in PARTS else configured


def database_url(common: CommonSettings, service: str) -> str:
    """Return the URL of a service's database."""
    chosen = ServiceSettings.of(service).database_url or common.database_url
    return chosen or f"sqlite:///{(common.data_dir / f'{service}.db').absolute()}"


def direct_database_url(common: CommonSettings, service: str) -> str:
    """Return the URL of a service's database without a pooler in between; empty where none is set.

    The one of all services goes with the database of all services.
    """
    own = ServiceSettings.of(service)
    return own.direct_database_url or ("" if own.database_url else common.direct_database_url)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
