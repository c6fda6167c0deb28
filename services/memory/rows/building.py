"""Rows of a store, made from records."""

import json
from collections.abc import Mapping
from typing import Any, Final

from services.memory.domain.metadata import canonical_json
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import Body, Document, Entity, LongTerm, Record, ShortTerm, Unified
from services.memory.rows.columns import COLUMN_TYPES, metadata_column
from services.memory.rows.row import ENVELOPE, PLACE_BITS
from services.memory.rows.values import format_time

RECORD_VERSION: Final = 1
"""Version of the way records are written into rows."""


def build_row(key: NamespaceKey, record: Record, embedding_model: str) -> dict[str, Any]:
    """Return the row of a record whose embedding and times are set; moments are `datetime`, vectors arrays.

    A record that says where it is stored keeps its primary key.
    """
    created = record.created_at
    if created is None or record.embedding is None:
        raise ValueError("a record is stored with its embedding and its time")
    body = record.body
    row: dict[str, Any] = {
        "id": record.stored_id or key.stored_id(record.id),
        "agent_id": record.agent_id,
        "llm_model": record.llm_model,
        "tools_used": _json_list(record.tools_used),
        "group_id": key.group_id,
        "crew_id": key.memory_id,
        "created_at": created,
        "timestamp": format_time(created),
        "embedding": record.embedding,
        "embedding_model": embedding_model,
        "version": RECORD_VERSION,
        metadata_column(record.kind): _metadata_document(record),
    }
    match body:
        case Unified():
            row |= {
                "content": body.content,
                "scope": body.scope,
                "categories": _json_list(body.categories),
                "importance": body.importance,
                "source": body.source,
                "private": body.private,
                "last_accessed": body.last_accessed,
                "session_id": body.session_id,
            }
        case ShortTerm():
            row |= {
                "content": body.content,
                "query_text": body.query_text,
                "session_id": body.session_id,
                "interaction_sequence": body.interaction_sequence,
                "ttl_hours": body.ttl_hours,
            }
        case LongTerm():
            row |= {
                "content": body.content,
                "task_description": body.task_description,
                "task_hash": body.task_hash,
                "quality": body.quality,
                "importance": body.importance,
                "last_accessed": body.last_accessed,
            }
        case Entity():
            row |= {
                "entity_name": body.entity_name,
                "entity_type": body.entity_type,
                "description": body.description,
            }
        case Document():
            row |= {
                "title": body.title,
                "content": body.content,
                "source": body.source,
                "document_type": body.document_type,
                "section": body.section,
                "chunk_index": body.chunk_index,
                "chunk_size": body.chunk_size,
                "parent_document_id": body.parent_document_id,
                "document_summary": body.document_summary,
                "agent_ids": _json_list(body.agent_ids),
                "created_at": format_time(created),
                "updated_at": format_time(body.updated_at or created),
            }
    return {name: row[name] for name in COLUMN_TYPES[record.kind]}


def setting_columns(body: Body) -> Mapping[str, str | int | bool]:
    """Return columns, with their values, that conditions may name and that near-copies of a record have in common."""
    match body:
        case Unified():
            return {"scope": body.scope, "private": body.private}
        case ShortTerm():
            return {"session_id": body.session_id, "interaction_sequence": body.interaction_sequence}
        case LongTerm():
            return {"task_hash": body.task_hash}
        case Entity():
            return {"entity_name": body.entity_name, "entity_type": body.entity_type}
        case Document():
            return {"parent_document_id": body.parent_document_id, "chunk_index": body.chunk_index}


def _metadata_document(record: Record) -> str:
    """Return the JSON column: the client's own keys, and under ENVELOPE what the schema has no column for."""
    envelope: dict[str, Any] = {"id": record.id}
    if owner := owner_of(record):
        envelope["owner"] = owner
    if record.expires_at is not None:
        envelope["expires"] = format_time(record.expires_at)
    if record.subjects:
        envelope["subjects"] = list(record.subjects)
    if record.revision > 1:
        envelope["revision"] = record.revision
    own: dict[str, Any] = json.loads(record.metadata) if record.metadata != "{}" else {}
    if isinstance(record.body, Entity):
        edges = [[edge.relation, edge.target] for edge in record.body.relationships]
        return canonical_json({"relationships": edges, "metadata": own, ENVELOPE: envelope})
    if isinstance(record.body, Document):
        envelope |= {
            "agent_id": record.agent_id,
            "llm_model": record.llm_model,
            "tools_used": list(record.tools_used),
        }
        place = {name: getattr(record.body, name) for name in PLACE_BITS if getattr(record.body, name)}
        if place:
            envelope["part"] = place
    return canonical_json({**own, ENVELOPE: envelope})


def _json_list(items: tuple[str, ...]) -> str:
    return canonical_json(items) if items else "[]"
