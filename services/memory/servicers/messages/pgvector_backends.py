"""Databases of memory backends as messages."""

import ipaddress
from typing import Final

from coxswain.memory.v1 import memory_backend_pb2 as pb
from services.common.egress import origin_of
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.memory.domain.backends import LakebaseInstance, PgvectorConfig, TlsMode

_FIELD: Final = "backend.pgvector"
_LABEL: Final = 63
"""Characters of one part of a host name, at most."""
_PORT: Final = 5432
_SCHEMA: Final = "coxswain_memory"
_SECRET: Final = "postgresql/password"


def pgvector_from_proto(message: pb.PgvectorBackendConfig) -> PgvectorConfig:
    """Return the configuration in a message.

    Raises:
        InvalidArgument: a part of it contradicts another.
    """
    lakebase = _lakebase(message.lakebase) if message.HasField("lakebase") else None
    tls_mode = TlsMode.VERIFY_FULL
    if message.tls_mode:
        tls_mode = enum_from_proto(TlsMode, pb.TlsMode, message.tls_mode)
    if lakebase is None and not message.user:
        raise InvalidArgument.field(f"{_FIELD}.user", "is needed to connect, except with lakebase")
    if lakebase is not None and message.password_secret:
        raise InvalidArgument.field(
            f"{_FIELD}.password_secret", "is not used with lakebase, whose workspace gives the password: leave it empty"
        )
    if lakebase is not None and tls_mode is not TlsMode.VERIFY_FULL:
        raise InvalidArgument.field(
            f"{_FIELD}.tls_mode", "must be TLS_MODE_VERIFY_FULL with lakebase: a token is sent to the server as it is"
        )
    if message.ca_certificates and tls_mode is not TlsMode.VERIFY_FULL:
        raise InvalidArgument.field(
            f"{_FIELD}.ca_certificates", "are checked with TLS_MODE_VERIFY_FULL alone: choose that or leave them out"
        )
    return PgvectorConfig(
        host=_host(message.host),
        port=message.port or _PORT,
        database=message.database,
        schema=message.schema or _SCHEMA,
        user=message.user,
        tls_mode=tls_mode,
        ca_certificates=message.ca_certificates.strip(),
        password_secret="" if lakebase else message.password_secret or _SECRET,
        lakebase=lakebase,
    )


def _host(text: str) -> str:
    """Return the name or address of a server in one spelling."""
    host = text.lower().removesuffix(".")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidArgument.field(f"{_FIELD}.host", "is not an address; write one as in 2001:db8::1") from None
        return host
    if not all(1 <= len(label) <= _LABEL for label in host.split(".")):
        raise InvalidArgument.field(
            f"{_FIELD}.host",
            f"is not a host name: between its dots are 1 to {_LABEL} characters each, as in db.example.com",
        )
    return host


def _lakebase(message: pb.LakebaseInstance) -> LakebaseInstance:
    workspace_url = origin_of(message.workspace_url)
    if workspace_url is None:
        raise InvalidArgument.field(f"{_FIELD}.lakebase.workspace_url", "is not an address; write https://HOST")
    if {"", ".", ".."} & set(message.instance.split("/")):
        raise InvalidArgument.field(
            f"{_FIELD}.lakebase.instance",
            "is not a name; write that of an instance, or projects/PROJECT/branches/BRANCH/endpoints/ENDPOINT",
        )
    return LakebaseInstance(workspace_url, message.instance)


def pgvector_to_proto(config: PgvectorConfig) -> pb.PgvectorBackendConfig:
    """Return the message of a configuration."""
    message = pb.PgvectorBackendConfig(
        host=config.host,
        port=config.port,
        database=config.database,
        schema=config.schema,
        user=config.user,
        tls_mode=enum_to_proto(pb.TlsMode, config.tls_mode),
        ca_certificates=config.ca_certificates,
        password_secret=config.password_secret,
    )
    if config.lakebase is not None:
        message.lakebase.workspace_url = config.lakebase.workspace_url
        message.lakebase.instance = config.lakebase.instance
    return message
