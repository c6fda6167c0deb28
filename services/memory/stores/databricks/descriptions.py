"""What a workspace reports about its indexes and endpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog

from services.common.logging import redact
from services.memory.rows.values import read_text

logger = structlog.get_logger(__name__)

STANDARD: Final = "STANDARD"
STORAGE_OPTIMIZED: Final = "STORAGE_OPTIMIZED"
"""The type of endpoints that take filters as text."""
_MAX_MESSAGE = 500
_MOST_COMPONENTS = 65_536
"""More than any index has for each vector: a query is written with as many numbers."""


class ResourceState(StrEnum):
    """The state of an index or endpoint, however the workspace names it."""

    UNSPECIFIED = "UNSPECIFIED"
    """A state that this version does not know."""
    READY = "READY"
    PROVISIONING = "PROVISIONING"
    OFFLINE = "OFFLINE"
    FAILED = "FAILED"
    NOT_FOUND = "NOT_FOUND"


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """What the workspace reports about an index; the row count may lag behind."""

    name: str
    endpoint: str = ""
    state: ResourceState = ResourceState.NOT_FOUND
    detailed_state: str = ""
    message: str = ""
    primary_key: str = ""
    vector_column: str = ""
    dimension: int = 0
    columns: Mapping[str, str] | None = None
    row_count: int = 0
    source_table: str = ""
    """The table that a delta-sync index follows: it is read only. Empty for a direct-access index."""


@dataclass(frozen=True, slots=True)
class EndpointDescription:
    """What the workspace reports about an endpoint."""

    name: str
    storage_optimized: bool = False
    state: ResourceState = ResourceState.NOT_FOUND
    detailed_state: str = ""
    message: str = ""
    index_count: int = 0


def resource_state(detailed: str, *, ready: bool = False) -> ResourceState:
    """Return the state that a store's own word stands for."""
    word = detailed.upper()
    if "FAILED" in word or "ERROR" in word or word in ("RED_STATE", "DELETED"):
        return ResourceState.FAILED
    if any(part in word for part in ("OFFLINE", "STOPPING", "STOPPED")):
        return ResourceState.OFFLINE
    if any(part in word for part in ("PROVISIONING", "INITIALIZING", "PENDING", "CREATING", "STARTING")):
        # ONLINE_NO_PENDING_UPDATE is online all the same.
        return ResourceState.READY if "ONLINE" in word else ResourceState.PROVISIONING
    if "ONLINE" in word or word in ("READY", "YELLOW_STATE"):
        return ResourceState.READY
    if not word:
        return ResourceState.READY if ready else ResourceState.PROVISIONING
    return ResourceState.UNSPECIFIED


def index_name(answer: Mapping[str, Any]) -> str:
    """Read the name of an index in a list.

    Raises:
        ValueError: it has none.
    """
    name = answer.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("an index has no name")
    return name


def index_description(index: str, answer: Mapping[str, Any]) -> IndexDescription:
    """Read what a workspace answers of an index.

    Raises:
        AttributeError, LookupError, OverflowError, TypeError, ValueError: it is no description.
    """
    status = answer.get("status") or {}
    followed = answer.get("delta_sync_index_spec") or {}
    spec = answer.get("direct_access_index_spec") or followed
    vectors = spec.get("embedding_vector_columns") or [{}]
    detailed = str(status.get("detailed_state") or "")
    dimension = int(vectors[0].get("embedding_dimension") or 0)
    if not 0 <= dimension <= _MOST_COMPONENTS:
        raise ValueError("vectors of no length")
    return IndexDescription(
        name=str(answer.get("name") or index),
        endpoint=str(answer.get("endpoint_name") or ""),
        state=resource_state(detailed, ready=bool(status.get("ready"))),
        detailed_state=detailed,
        message=_message(status.get("message")),
        primary_key=str(answer.get("primary_key") or ""),
        vector_column=str(vectors[0].get("name") or ""),
        dimension=dimension,
        columns=_columns(index, spec),
        row_count=int(status.get("indexed_row_count") or 0),
        source_table=str(followed.get("source_table") or "unknown") if _follows(answer) else "",
    )


def _columns(index: str, spec: Mapping[str, Any]) -> Mapping[str, str] | None:
    try:
        columns = json.loads(spec.get("schema_json") or "null")
    except (RecursionError, TypeError, ValueError):
        logger.warning("schema_unreadable", index=index)
        return None
    return {read_text(name): read_text(kind) for name, kind in columns.items()} if isinstance(columns, dict) else None


def _follows(answer: Mapping[str, Any]) -> bool:
    kind = str(answer.get("index_type") or "")
    return kind == "DELTA_SYNC" or (not kind and bool(answer.get("delta_sync_index_spec")))


def endpoint_description(answer: Mapping[str, Any]) -> EndpointDescription:
    """Read what a workspace answers of an endpoint."""
    status = answer.get("endpoint_status") or {}
    detailed = str(status.get("state") or "")
    return EndpointDescription(
        name=str(answer.get("name") or ""),
        storage_optimized=answer.get("endpoint_type") == STORAGE_OPTIMIZED,
        state=resource_state(detailed),
        detailed_state=detailed,
        message=_message(status.get("message")),
        index_count=int(answer.get("num_indexes") or 0),
    )


def _message(message: object) -> str:
    return redact(str(message or ""))[:_MAX_MESSAGE]
