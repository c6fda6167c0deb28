"""CrewAI's memory storage, kept by the memory service."""

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crewai.memory.types import MemoryRecord, ScopeInfo

from services.orchestrator.worker.frames import Frame

if TYPE_CHECKING:
    from services.orchestrator.worker.engine.session import TaskRun

OWN_METADATA = ("execution_id", "task")
"""Says where a memory came from. It is for people who list memories, not for prompts."""


class RemoteMemoryStorage:
    """The storage of one run of a task: all of CrewAI's StorageBackend protocol.

    Records new to the store get ids made of execution, task and position, so that a task done again after a crash
    replaces what it had saved instead of saving it twice.
    """

    def __init__(self, run: "TaskRun") -> None:
        self._run = run
        self._saved = 0
        self._known: set[str] = set()

    def save(self, records: list[MemoryRecord]) -> None:
        """Store records."""
        for record in records:
            if record.id not in self._known:
                record.id = f"{self._run.session.execution_id}.{self._run.index}.{self._saved}"
                self._saved += 1
                self._known.add(record.id)
        own = {"execution_id": self._run.session.execution_id, "task": self._run.name}
        self._run.call("memory.save", {"records": [_to_json(record, own) for record in records]})

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
        """Remove the records that meet all that is given, and return how many there were."""
        filters = _filter(scope_prefix, categories, metadata_filter)
        if older_than is not None:
            filters["created_before"] = _moment(older_than)
        deleted: int = self._run.call("memory.delete", {"ids": record_ids or [], "filter": filters})["deleted"]
        return deleted

    def update(self, record: MemoryRecord) -> None:
        """Replace the record of the same id."""
        self._known.add(record.id)
        self._run.call("memory.save", {"records": [_to_json(record, {})]})

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
        figures = self._run.call("memory.scope", {"scope": scope})
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
        scopes: list[str] = self._run.call("memory.scopes", {"parent": parent})["scopes"]
        return scopes

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return how many records each category has."""
        counts: dict[str, int] = self._run.call("memory.categories", {"scope": scope_prefix or ""})["counts"]
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
        self._known.add(record["id"])
        metadata = {name: value for name, value in record["metadata"].items() if name not in OWN_METADATA}
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


def _to_json(record: MemoryRecord, own: dict[str, str]) -> Frame:
    return {
        "id": record.id,
        "content": record.content,
        "scope": record.scope,
        "categories": record.categories,
        "metadata": json.loads(json.dumps(record.metadata, default=str)) | own,
        "importance": record.importance,
        "created_at": _moment(record.created_at),
        "last_accessed": _moment(record.last_accessed),
        "embedding": record.embedding or [],
        "source": record.source or "",
        "private": record.private,
    }


def _filter(scope_prefix: str | None, categories: list[str] | None, metadata: dict[str, Any] | None) -> Frame:
    filters: Frame = {}
    if scope_prefix:
        filters["scope_prefix"] = scope_prefix
    if categories:
        filters["categories"] = categories
    if metadata:
        filters["metadata"] = metadata
    return filters


def _moment(moment: datetime) -> str:
    """CrewAI's moments are naive and in UTC."""
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)).isoformat()


def _naive(moment: str | None) -> datetime | None:
    return datetime.fromisoformat(moment).astimezone(UTC).replace(tzinfo=None) if moment else None
