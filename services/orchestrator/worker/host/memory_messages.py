"""Memories: what crew processes say in JSON, and what the memory service says in messages."""

import json
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.orchestrator.worker.link.framing import Frame


def namespace(memory_id: str) -> pb.Namespace:
    """Return where a crew's memories lie."""
    return pb.Namespace(memory_id=memory_id, kind=record_pb2.MEMORY_KIND_UNIFIED)


def record_message(record: Frame) -> record_pb2.Record:
    """Return the message of a memory."""
    return record_pb2.Record(
        id=record["id"],
        unified=record_pb2.UnifiedRecord(
            content=record["content"],
            scope=record["scope"],
            categories=record["categories"],
            importance=record["importance"],
            source=record["source"],
            private=record["private"],
            last_accessed=_timestamp(record["last_accessed"]),
        ),
        embedding=record["embedding"],
        metadata=json.dumps(record["metadata"], ensure_ascii=False),
        create_time=_timestamp(record["created_at"]),
    )


def record_json(record: record_pb2.Record) -> Frame:
    """Return a memory as crew processes read it."""
    unified = record.unified
    return {
        "id": record.id,
        "content": unified.content,
        "scope": unified.scope or "/",
        "categories": list(unified.categories),
        "metadata": json.loads(record.metadata) if record.metadata else {},
        "importance": unified.importance,
        "created_at": _moment(record.create_time),
        "last_accessed": _moment(unified.last_accessed) if unified.HasField("last_accessed") else None,
        "embedding": list(record.embedding),
        "source": unified.source,
        "private": unified.private,
    }


def filter_message(filters: Frame) -> pb.RecordFilter:
    """Return the message of a filter."""
    message = pb.RecordFilter(
        scope_prefix=filters.get("scope_prefix", ""),
        categories=filters.get("categories", ()),
        metadata={name: json.dumps(value) for name, value in filters.get("metadata", {}).items()},
        source=filters.get("source", ""),
        include_private=filters.get("include_private", False),
    )
    if "created_before" in filters:
        message.created_before.CopyFrom(_timestamp(filters["created_before"]))
    return message


def scope_json(scope: pb.ScopeInfo) -> Frame:
    """Return the figures of a scope."""
    return {
        "path": scope.path,
        "record_count": scope.record_count,
        "categories": list(scope.categories),
        "oldest": _moment(scope.oldest_time) if scope.HasField("oldest_time") else None,
        "newest": _moment(scope.newest_time) if scope.HasField("newest_time") else None,
        "children": list(scope.child_scopes),
    }


def _timestamp(moment: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(moment).astimezone(UTC))
    return stamp


def _moment(stamp: Timestamp) -> str:
    return stamp.ToDatetime(UTC).isoformat()
