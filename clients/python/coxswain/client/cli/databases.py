"""Options of commands about backends that are databases, and the message they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coxswain.client.later import memory_backend_pb2

_TLS_PREFIX = "TLS_MODE_"

HostOption = Annotated[
    str, typer.Option("--host", help="Server of a PostgreSQL database with pgvector, Lakebase among them.")
]
PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Its port; 0 means 5432.")]
DatabaseOption = Annotated[str, typer.Option("--database", help="The database on that server.")]
UserOption = Annotated[
    str, typer.Option("--user", help="The user to connect as; with --instance by default whoever the token belongs to.")
]
TlsOption = Annotated[
    str, typer.Option("--tls", help="verify-full, require or disable; by default verify-full.", show_default=False)
]
CaFileOption = Annotated[
    Path | None, typer.Option("--ca-file", help="PEM file of the authorities that the server's certificate is of.")
]
SecretOption = Annotated[
    str, typer.Option("--secret", help="The secret with the password; by default postgresql/password.")
]
InstanceOption = Annotated[
    str, typer.Option("--instance", help="Lakebase instance or endpoint, whose --workspace issues the password.")
]


def database_fields(
    *,
    host: str,
    port: int,
    database: str,
    schema: str,
    user: str,
    tls: str,
    ca_file: Path | None,
    secret: str,
    instance: str,
    workspace: str,
) -> memory_backend_pb2.PgvectorBackendConfig:
    """The configuration that options make; what was not given is not set."""
    config = memory_backend_pb2.PgvectorBackendConfig(
        host=host,
        port=port,
        database=database,
        schema=schema,
        user=user,
        password_secret=secret,
        ca_certificates=ca_file.read_text(encoding="utf-8") if ca_file else "",
    )
    if tls:
        config.tls_mode = _tls_mode(tls)
    if instance:
        config.lakebase.CopyFrom(memory_backend_pb2.LakebaseInstance(workspace_url=workspace, instance=instance))
    return config


def _tls_mode(text: str) -> memory_backend_pb2.TlsMode.ValueType:
    name = _TLS_PREFIX + text.upper().replace("-", "_")
    if name not in memory_backend_pb2.TlsMode.keys() or name.endswith("UNSPECIFIED"):  # noqa: SIM118 - it is no mapping
        raise typer.BadParameter(f"{text!r}: choose verify-full, require or disable", param_hint="--tls")
    return memory_backend_pb2.TlsMode.Value(name)


def described(config: memory_backend_pb2.PgvectorBackendConfig) -> str:
    """Where a database is, in a line."""
    return f"postgresql {config.host}:{config.port}/{config.database} schema {config.schema}"
