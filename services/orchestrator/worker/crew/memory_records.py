"""Memories as CrewAI knows them, and as the memory service does."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from crewai.memory.types import MemoryRecord, ScopeInfo
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from services.common.grpc.json_values import from_struct, parse_exact, to_struct
from services.common.storable import storable, storable_json

_OWN_METADATA = ("execution_id", "task")
"""Says where a memory came from. It is for people who list memories, not for prompts."""

# What the memory service takes.
_CATEGORIES, _CATEGORY_CHARACTERS = 64, 128
_PART_CHARACTERS = 96
"""A longer part of a scope (roles may be whole paragraphs) is cut and gets a hash instead of its end."""


def record_from_proto(record: Record) -> tuple[MemoryRecord, dict[str, Any]]:
    """Return a memory as CrewAI knows it, and where it came from."""
    metadata = from_struct("metadata", record.metadata)
    own = {name: metadata.pop(name) for name in _OWN_METADATA if name in metadata}
    unified, created = record.unified, record.create_time.ToDatetime()
    memory = MemoryRecord(
        id=record.id,
        content=unified.content,
        scope=unified.scope or "/",
        categories=list(unified.categories),
        metadata=metadata,
        importance=unified.importance,
        created_at=created,
        last_accessed=unified.last_accessed.ToDatetime() if unified.HasField("last_accessed") else created,
        embedding=list(record.embedding) or None,
        source=unified.source or None,
        private=unified.private,
    )
    return memory, own


def scope_from_proto(info: pb.ScopeInfo) -> ScopeInfo:
    """Return the figures of a scope."""
    return ScopeInfo(
        path=info.path,
        record_count=info.record_count,
        categories=list(info.categories),
        oldest_record=info.oldest_time.ToDatetime() if info.HasField("oldest_time") else None,
        newest_record=info.newest_time.ToDatetime() if info.HasField("newest_time") else None,
        child_scopes=list(info.child_scopes),
    )


def record_to_proto(record: MemoryRecord, own: Mapping[str, Any]) -> Record:
    """Return a memory as the memory service knows it; `own` says where it came from."""
    metadata = parse_exact(json.dumps(record.metadata, default=str)) | dict(own)
    return Record(
        id=record.id,
        unified=UnifiedRecord(
            content=storable(record.content),
            scope=stored_scope(record.scope),
            categories=stored_categories(record.categories),
            importance=record.importance,
            source=storable(record.source or ""),
            private=record.private,
            last_accessed=timestamp_of(record.last_accessed),
        ),
        embedding=record.embedding,
        metadata=to_struct(storable_json(metadata)),
        create_time=timestamp_of(record.created_at),
    )


def keep_unknown_fields(message: Record, existing: Record) -> None:
    """Take over from the record that is there what CrewAI's records have no field for."""
    message.agent_id, message.llm_model = existing.agent_id, existing.llm_model
    message.tools_used.extend(existing.tools_used)
    message.unified.session_id = existing.unified.session_id
    if existing.HasField("expire_time"):
        message.expire_time.CopyFrom(existing.expire_time)


def stored_scope(path: str) -> str:
    """Return a scope that can be stored; a scope below another one stays below it."""
    parts = []
    for part in storable(path).split("/"):
        shown = part
        if len(part) > _PART_CHARACTERS:
            digest = hashlib.sha256(part.encode()).hexdigest()[:16]
            shown = f"{part[: _PART_CHARACTERS - len(digest) - 1]}-{digest}"
        parts.append(shown)
    return "/".join(parts)


def stored_categories(names: list[str]) -> list[str]:
    """Return categories that can be stored: models name too many, and too long and empty ones."""
    return list(dict.fromkeys(storable(name)[:_CATEGORY_CHARACTERS] for name in names if name))[:_CATEGORIES]


def timestamp_of(moment: datetime) -> Timestamp:
    """CrewAI's moments are naive and in UTC."""
    stamp = Timestamp()
    stamp.FromDatetime(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC))
    return stamp
