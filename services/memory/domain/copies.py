"""When two records of a namespace are the same memory, and what becomes of one that is saved again."""

import hmac
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from services.memory.domain.digest import digest
from services.memory.domain.metadata import MOST_METADATA_BYTES, canonical_json
from services.memory.domain.owners import owner_of
from services.memory.domain.records import Body, Document, Entity, LongTerm, Record, ShortTerm, Unified
from services.memory.domain.subjects import UNKNOWN

_MOST_CATEGORIES = 64
_MOST_RELATIONSHIPS = 1024
_MOST_SUBJECTS = 1000
"""What requests may hold: a record that was merged can be saved again."""

Item = TypeVar("Item")


def identity_of(record: Record) -> str:
    """Return a hash that two records of a namespace share when they are the same memory.

    Texts are compared in Unicode's normal form C and without white space at their end; nothing else about them is
    ignored. A private record is the same only as one of its owner's.
    """
    return digest(record.kind.name, *_identifying(record))


def identities_of(records: Sequence[Record]) -> list[str]:
    """Return the identity of each record. To be called in a thread: a save has megabytes of text."""
    return [identity_of(record) for record in records]


def chosen_ids(record: Record, identity: str, key: bytes) -> Iterator[str]:
    """Yield the ids that a record without one may get, best first: equal records get equal ids from every server.

    Those of private records take the key: nobody else can find out by an id whether there is one of a text. Later ones
    are for where a record that has been given another text since has an earlier one.
    """
    if owner_of(record) is not None:
        identity = hmac.digest(key, identity.encode(), "sha256").hex()
    yield identity[:32]
    turn = 0
    while True:
        turn += 1
        yield digest(identity, str(turn))[:32]


def merged(existing: Record, again: Record, now: datetime) -> Record:
    """Return the record that is there as a save of the same memory leaves it: used now, and nothing of it lost.

    Its id, identity, text and time of creation stay, the vector is that of the last save, and a short-term memory
    starts its life anew.
    """
    return replace(
        existing,
        body=_merged_body(existing.body, again.body, now),
        embedding=again.embedding,
        agent_id=existing.agent_id or again.agent_id,
        llm_model=existing.llm_model or again.llm_model,
        tools_used=existing.tools_used or again.tools_used,
        metadata=_merged_metadata(existing.metadata, again.metadata),
        created_at=now if isinstance(existing.body, ShortTerm) else existing.created_at,
        expires_at=_later(existing.expires_at, again.expires_at),
        subjects=merged_subjects(existing.subjects, again.subjects),
        revision=existing.revision + 1,
    )


def replaced_by(existing: Record, newer: Record, now: datetime) -> Record:
    """Return the record that is there as a save of a near-copy leaves it: the newer text, and what is known of both.

    Its id and time of creation stay. It is of those alone who have saved the newer text.
    """
    both = merged(existing, newer, now)
    return replace(
        both,
        body=_with_text_of(both.body, newer.body),
        agent_id=newer.agent_id or existing.agent_id,
        llm_model=newer.llm_model or existing.llm_model,
        tools_used=newer.tools_used or existing.tools_used,
        metadata=_merged_metadata(newer.metadata, existing.metadata),
        subjects=newer.subjects,
    )


def setting_of(record: Record) -> tuple[str, ...]:
    """Return what identifies a record beside its text: near-copies have it in common."""
    # The text that is embedded comes first, but for entities, whose name and type are embedded too.
    identifying = _identifying(record)
    return identifying[:-1] if isinstance(record.body, Entity) else identifying[1:]


def _with_text_of(body: Body, newer: Body) -> Body:
    match body, newer:
        case Unified(), Unified():
            return replace(body, content=newer.content, source=newer.source)
        case Entity(), Entity():
            return replace(body, description=newer.description)
        case ((ShortTerm() | LongTerm() | Document()), (ShortTerm() | LongTerm() | Document())):
            return replace(body, content=newer.content)
        case _:
            raise ValueError("records of two kinds are never copies of each other")


def _identifying(record: Record) -> tuple[str, ...]:
    match record.body:
        case Unified() as body:
            return (_plain(body.content), body.scope, str(body.private), owner_of(record) or "")
        case ShortTerm() as body:
            turn = str(body.interaction_sequence)
            return (_plain(body.content), _plain(body.query_text), body.session_id, turn)
        case LongTerm() as body:
            return (_plain(body.content), _plain(body.task_description))
        case Entity() as body:
            return (_plain(body.entity_name), _plain(body.entity_type), _plain(body.description))
        case Document() as body:
            part = (body.title, body.source, body.parent_document_id, body.section, str(body.chunk_index))
            return (_plain(body.content), *part, *sorted(body.agent_ids))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).rstrip()


def _merged_body(existing: Body, again: Body, now: datetime) -> Body:
    match existing, again:
        case Unified(), Unified():
            return replace(
                existing,
                categories=_union(existing.categories, again.categories, _MOST_CATEGORIES),
                importance=max(existing.importance, again.importance),
                last_accessed=now,
            )
        case LongTerm(), LongTerm():
            return replace(
                existing,
                quality=max(existing.quality, again.quality),
                importance=max(existing.importance, again.importance),
                last_accessed=now,
            )
        case Entity(), Entity():
            return replace(
                existing, relationships=_union(existing.relationships, again.relationships, _MOST_RELATIONSHIPS)
            )
        case Document(), Document():
            return replace(
                existing,
                document_type=again.document_type or existing.document_type,
                chunk_size=again.chunk_size or existing.chunk_size,
                document_summary=again.document_summary or existing.document_summary,
                updated_at=now,
            )
        case ShortTerm(), ShortTerm():
            return replace(existing, ttl_hours=max(existing.ttl_hours, again.ttl_hours))
        case _:
            raise ValueError("records of two kinds are never the same memory")


def _later(some: datetime | None, other: datetime | None) -> datetime | None:
    return None if some is None or other is None else max(some, other)


def _union(some: tuple[Item, ...], others: tuple[Item, ...], limit: int) -> tuple[Item, ...]:
    return tuple(dict.fromkeys((*some, *others)))[: max(limit, len(some))]


def merged_subjects(existing: tuple[str, ...], again: tuple[str, ...]) -> tuple[str, ...]:
    """Return who has saved a record; who is not noted is not forgotten, as it is theirs too."""
    if not existing and not again:
        return ()
    return _union(existing or (UNKNOWN,), again or (UNKNOWN,), _MOST_SUBJECTS)


def _merged_metadata(existing: str, again: str) -> str:
    """Return the metadata with the keys that are new, as far as they fit."""
    if again in ("{}", existing):
        return existing
    both = canonical_json(json.loads(again) | json.loads(existing))
    return both if len(both.encode()) <= MOST_METADATA_BYTES else existing
