"""CrewAI's memory storage, kept by the memory service."""

import asyncio
import contextlib
import contextvars
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crewai.memory.types import MemoryRecord, ScopeInfo

from services.orchestrator.worker.link.framing import Frame

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.session import TaskRun

OWN_METADATA = ("execution_id", "task")
"""Says where a memory came from. It is for people who list memories, not for prompts."""

# What the memory service takes.
_CATEGORIES, _CATEGORY_CHARACTERS = 64, 128
_SAVED_AT_ONCE = 100
_MOST_SAVED = 10_000
_PART_CHARACTERS = 96
"""A longer part of a scope (roles may be whole paragraphs) is cut, and told apart by a hash."""

# CrewAI leaves privacy to the memory, which knows who asks; the memory service decides it in the search.
_viewer: contextvars.ContextVar[Frame | None] = contextvars.ContextVar("coxswain_memory_viewer", default=None)


@contextlib.contextmanager
def seen_by(source: str | None, *, include_private: bool) -> Iterator[None]:
    """Have searches find the private records of a source too, or those of all."""
    viewer: Frame = {}
    if source:
        viewer["source"] = source
    if include_private:
        viewer["include_private"] = True
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


class RemoteMemoryStorage:
    """The storage of one run of a task: all of CrewAI's StorageBackend protocol.

    Records new to the store get ids made of execution, task and position, so that a task done again (after a crash, or
    because a person refused its result) removes what it had saved instead of saving it twice. Private records are seen
    as `seen_by` says.
    """

    def __init__(self, run: "TaskRun") -> None:
        self._run = run
        self._known: dict[str, Mapping[str, Any]] = {}
        """Where each record came from that was read or saved here."""

    def save(self, records: list[MemoryRecord]) -> None:
        """Store records."""
        own = {"execution_id": self._run.session.execution_id, "task": self._run.name}
        for record in records:
            if record.id not in self._known:
                # Tools that run side by side save side by side.
                record.id = self._own_id(self._run.occurrence("memory.save"))
                self._known[record.id] = own
        for start in range(0, len(records), _SAVED_AT_ONCE):
            batch = records[start : start + _SAVED_AT_ONCE]
            self._run.call("memory.save", {"records": [_to_json(record, self._known[record.id]) for record in batch]})

    def forget_earlier_attempts(self) -> None:
        """Remove what attempts before this one have saved: it may have been more, and came to nothing in the end."""
        for first in range(0, _MOST_SAVED, _SAVED_AT_ONCE):
            ids = [self._own_id(position) for position in range(first, first + _SAVED_AT_ONCE)]
            if not self._run.call("memory.delete", {"ids": ids, "filter": {}})["deleted"]:
                break

    def _own_id(self, position: int) -> str:
        return f"{self._run.session.execution_id}.{self._run.index}.{position}"

    def search(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the records nearest to a vector with their cosine similarity, best first."""
        filters = _filter(scope_prefix, categories, metadata_filter)
        return self._search({"vector": query_embedding, "filter": filters, "limit": limit, "min_score": min_score})

    def search_text(
        self, query: str, scope_prefix: str | None, categories: list[str] | None, limit: int
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the records nearest to a text, embedded where the records were."""
        filters = _filter(scope_prefix, categories, None)
        return self._search({"text": query, "filter": filters, "limit": limit, "min_score": 0.0})

    def _search(self, params: Frame) -> list[tuple[MemoryRecord, float]]:
        found = self._run.call("memory.search", params)["results"]
        return [(self._from_json(result["record"]), result["similarity"]) for result in found]

    def delete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """Remove the records that meet all that is given, or all if nothing is, and return how many there were."""
        filters = _filter(scope_prefix, categories, metadata_filter)
        if older_than is not None:
            filters["created_before"] = _moment(older_than)
        if not (scope_prefix or categories or record_ids or older_than or metadata_filter):
            filters["scope_prefix"] = "/"
        deleted: int = self._run.call("memory.delete", {"ids": record_ids or [], "filter": filters})["deleted"]
        return deleted

    def update(self, record: MemoryRecord) -> None:
        """Replace the record of the same id."""
        own = self._known.setdefault(record.id, {})
        self._run.call("memory.save", {"records": [_to_json(record, own)]})

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return a record, None if there is none of that id."""
        record = self._run.call("memory.get", {"id": record_id})["record"]
        return None if record is None else self._from_json(record)

    def list_records(self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0) -> list[MemoryRecord]:
        """Return records, newest first."""
        params = {"filter": _filter(scope_prefix, None, None), "limit": limit + offset}
        return [self._from_json(record) for record in self._run.call("memory.list", params)["records"]][offset:]

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """Return the figures of a scope and all below it."""
        figures = self._run.call("memory.scope", {"scope": _scope(scope)})
        return ScopeInfo(
            path=figures["path"],
            record_count=figures["record_count"],
            categories=figures["categories"],
            oldest_record=_naive(figures["oldest"]),
            newest_record=_naive(figures["newest"]),
            child_scopes=figures["children"],
        )

    def list_scopes(self, parent: str = "/") -> list[str]:
        """Return the scopes directly below another."""
        scopes: list[str] = self._run.call("memory.scopes", {"parent": _scope(parent)})["scopes"]
        return scopes

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return how many records each category has."""
        counts: dict[str, int] = self._run.call("memory.categories", {"scope": _scope(scope_prefix or "")})["counts"]
        return counts

    def count(self, scope_prefix: str | None = None) -> int:
        """Return how many records there are."""
        count: int = self._run.call("memory.count", {"filter": _filter(scope_prefix, None, None)})["count"]
        return count

    def reset(self, scope_prefix: str | None = None) -> None:
        """Remove all records of a scope."""
        self.delete(scope_prefix=scope_prefix or "/")

    def touch_records(self, record_ids: list[str]) -> None:
        """Note that records were found just now."""
        self._run.notify("memory.touch", {"ids": record_ids})

    async def asave(self, records: list[MemoryRecord]) -> None:
        """See `save`."""
        await asyncio.to_thread(self.save, records)

    async def asearch(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """See `search`."""
        return await asyncio.to_thread(
            self.search, query_embedding, scope_prefix, categories, metadata_filter, limit, min_score
        )

    async def adelete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """See `delete`."""
        return await asyncio.to_thread(self.delete, scope_prefix, categories, record_ids, older_than, metadata_filter)

    def _from_json(self, record: Frame) -> MemoryRecord:
        metadata = dict(record["metadata"])
        self._known[record["id"]] = {name: metadata.pop(name) for name in OWN_METADATA if name in metadata}
        created = _naive(record["created_at"])
        return MemoryRecord(
            id=record["id"],
            content=record["content"],
            scope=record["scope"],
            categories=record["categories"],
            metadata=metadata,
            importance=record["importance"],
            created_at=created,
            last_accessed=_naive(record["last_accessed"]) or created,
            embedding=record.get("embedding") or None,
            source=record["source"] or None,
            private=record["private"],
        )


def _to_json(record: MemoryRecord, own: Mapping[str, Any]) -> Frame:
    return {
        "id": record.id,
        "content": _storable(record.content),
        "scope": _scope(record.scope),
        "categories": _categories(record.categories),
        "metadata": json.loads(json.dumps(record.metadata, default=str)) | dict(own),
        "importance": record.importance,
        "created_at": _moment(record.created_at),
        "last_accessed": _moment(record.last_accessed),
        "embedding": record.embedding or [],
        "source": record.source or "",
        "private": record.private,
    }


def _filter(scope_prefix: str | None, categories: list[str] | None, metadata: dict[str, Any] | None) -> Frame:
    filters: Frame = dict(_viewer.get() or {})
    if scope_prefix:
        filters["scope_prefix"] = _scope(scope_prefix)
    if categories:
        filters["categories"] = _categories(categories)
    if metadata:
        filters["metadata"] = metadata
    return filters


def _storable(text: str) -> str:
    """Return a text without what no database holds: it comes from models and tools, and is worth more than the task."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _scope(path: str) -> str:
    """Return a scope that can be stored; what lies below another lies below it still."""
    parts = []
    for part in _storable(path).split("/"):
        shown = part
        if len(part) > _PART_CHARACTERS:
            digest = hashlib.sha256(part.encode()).hexdigest()[:16]
            shown = f"{part[: _PART_CHARACTERS - len(digest) - 1]}-{digest}"
        parts.append(shown)
    return "/".join(parts)


def _categories(names: list[str]) -> list[str]:
    """Return categories as they can be stored: models name too many, too long and empty ones."""
    return list(dict.fromkeys(_storable(name)[:_CATEGORY_CHARACTERS] for name in names if name))[:_CATEGORIES]


def _moment(moment: datetime) -> str:
    """CrewAI's moments are naive and in UTC."""
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)).isoformat()


def _naive(moment: str | None) -> datetime | None:
    return datetime.fromisoformat(moment).astimezone(UTC).replace(tzinfo=None) if moment else None
