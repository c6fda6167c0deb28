"""Databases of backends as the JSON documents they are stored as."""

from collections.abc import Mapping
from typing import Any

from services.memory.domain.backends import LakebaseInstance, PgvectorConfig, TlsMode


def pgvector_document(config: PgvectorConfig) -> dict[str, Any]:
    """Return the document of a configuration."""
    lakebase = config.lakebase
    return {
        "host": config.host,
        "port": config.port,
        "database": config.database,
        "schema": config.schema,
        "user": config.user,
        "tls_mode": config.tls_mode,
        "ca_certificates": config.ca_certificates,
        "password_secret": config.password_secret,
        "lakebase": lakebase and {"workspace_url": lakebase.workspace_url, "instance": lakebase.instance},
    }


def pgvector_config(document: Mapping[str, Any]) -> PgvectorConfig:
    """Return the configuration in a document."""
    lakebase = document["lakebase"]
    return PgvectorConfig(
        host=document["host"],
        port=document["port"],
        database=document["database"],
        schema=document["schema"],
        user=document["user"],
        tls_mode=TlsMode(document["tls_mode"]),
        ca_certificates=document["ca_certificates"],
        password_secret=document["password_secret"],
        lakebase=LakebaseInstance(**lakebase) if lakebase else None,
    )
