"""CrewAI's memory storage, kept by the memory service."""

import asyncio
import contextlib
import contextvars
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from crewai.memory.types import MemoryRecord, ScopeInfo

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1.record_pb2 import Record
from services.common.grpc.json_values import to_value
from services.common.storable import storable, storable_json
from services.common.visible_text import has_visible_text
from services.orchestrator.domain.crew import MemorySpec, RecallMode
from services.orchestrator.recall import recalling
from services.orchestrator.worker.crew.embedder import Embedder
from services.orchestrator.worker.crew.memory_records import (
    keep_unknown_fields,
    record_from_proto,
    record_to_proto,
    scope_from_proto,
    stored_categories,
    stored_scope,
    timestamp_of,
)
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.result_parts import PARTS

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.attempt import TaskAttempt

# What the memory service takes.
_SAVED_AT_ONCE = 100
_FORGOTTEN_AT_ONCE = 1000


@dataclass(slots=True)
class _Recall:
    """A recall that is under way, in one or more threads."""

    viewer: pb.RecordFilter
    texts: dict[tuple[float, ...], str] = field(default_factory=dict)
    """What was embedded for it, by its vectors."""


# CrewAI leaves privacy to the memory, which knows who asks; the memory service decides it in the search.
_recall: contextvars.ContextVar[_Recall | None] = contextvars.ContextVar("coxswain_memory_recall", default=None)


@contextlib.contextmanager
def seen_by(source: str | None, *, include_private: bool) -> Iterator[None]:
    """Have searches within recall as the crew wants it, and find the private records of a source too, or of all."""
    viewer = pb.RecordFilter(source=storable(source or ""), include_private=include_private)
    token = _recall.set(_Recall(viewer))
    try:
        yield
    finally:
        _recall.reset(token)


def noting_texts(embed: Embedder) -> Embedder:
    """Return an embedder after which searches by its vectors know the texts: words can be looked for as well."""

    def embed_texts(texts: Sequence[str]) -> list[list[float]]:
        vectors = embed(texts)
        if (recall := _recall.get()) is not None:
            recall.texts.update(zip(map(tuple, vectors), texts, strict=True))
        return vectors

    return embed_texts


class ServiceMemoryStorage:
    """The storage of one attempt at a task: all of CrewAI's StorageBackend protocol.

    Records new to the store get their ids from the memory service: what it has already is not stored again, however
    often the crew runs. They say which execution and task saved them first, so that a task done again (after a crash,
    or because a person declined its result) can remove what it had saved. Private records are seen as `seen_by` says.
    """

    def __init__(self, attempt: "TaskAttempt") -> None:
        self._attempt = attempt
        self._host = attempt.host
        self._known: dict[str, Mapping[str, Any]] = {}
        """Where each record came from that was read or saved here."""
        self._read: dict[str, Record] = {}
        """Those that were read, as they were."""
        self._saved: set[str] = set()
        """Ids of what was saved here."""
        self._private: dict[str, str] = {}
        """The sources of those that are private."""

    def save(self, records: list[MemoryRecord]) -> None:
        """Store records; those without a text that can be seen are left out."""
        own = self._own
        records = [record for record in records if has_visible_text(record.content)]
        for batch in _batches(records):
            messages = [record_to_proto(record, self._known.get(record.id, own)) for record in batch]
            for record, message in zip(batch, messages, strict=True):
                if record.id not in self._known:
                    message.ClearField("id")
            ids = self._host.save_records(pb.SaveRecordsRequest(records=messages))
            for record, record_id in zip(batch, ids, strict=True):
                record.id = record_id
                self._known.setdefault(record_id, own)
                self._saved.add(record_id)
                self._note_privacy(record_id, record.source or "", private=record.private)

    def _note_privacy(self, record_id: str, source: str, *, private: bool) -> None:
        if private:
            self._private[record_id] = source
        else:
            self._private.pop(record_id, None)

    def forget_earlier_attempts(self) -> None:
        """Remove what attempts before this one have saved: it may have been more, and came to nothing in the end.

        What has been saved again since is another execution's memory by now, too, and stays.
        """
        own = pb.RecordFilter(metadata={name: to_value(value) for name, value in self._own.items()})
        is_more = True
        while is_more:
            request = pb.ListRecordsRequest(filter=own, page_size=_FORGOTTEN_AT_ONCE)
            saved = self._host.list_records(request).records
            ids = [record.id for record in saved if record.revision == 1]
            deleted = self._host.delete_records(pb.DeleteRecordsRequest(ids=ids)) if ids else 0
            is_more = len(saved) == _FORGOTTEN_AT_ONCE and deleted > 0

    @property
    def _spec(self) -> MemorySpec:
        return self._attempt.session.spec.memory

    @property
    def _own(self) -> dict[str, str]:
        return {"execution_id": self._attempt.session.execution_id, "task": self._attempt.name}

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
        request = pb.SearchRecordsRequest(
            vector=pb.Vector(values=query_embedding),
            filter=_filter(scope_prefix, categories, metadata_filter),
            limit=limit,
            min_score=min_score,
        )
        recall = _recall.get()
        text = storable(recall.texts.get(tuple(query_embedding), "")) if recall else ""
        if has_visible_text(text) and self._spec.recall.mode is not RecallMode.VECTOR:
            request.text = text
        return self._search(recalling(request, self._spec.recall) if recall else request)

    def search_text(
        self, query: str, scope_prefix: str | None, categories: list[str] | None, limit: int
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the records nearest to a text, embedded where the records were."""
        request = pb.SearchRecordsRequest(
            text=storable(query), filter=_filter(scope_prefix, categories), limit=limit, min_score=0.0
        )
        return self._search(recalling(request, self._spec.recall))

    def similar(self, record: MemoryRecord, similarity: float, limit: int) -> list[tuple[MemoryRecord, float]]:
        """Return what says much the same as a new record in its scope or below it, the most similar first.

        What this attempt has saved itself is left out: these are different parts of one result.
        """
        request = pb.SearchRecordsRequest(
            text=storable(record.content),
            mode=pb.SEARCH_MODE_VECTOR,
            filter=_filter(record.scope),
            limit=limit + len(self._saved),
            min_score=similarity,
        )
        found = [pair for pair in self._search(request) if pair[0].id not in self._saved]
        return found[:limit]

    def _search(self, request: pb.SearchRecordsRequest) -> list[tuple[MemoryRecord, float]]:
        results = self._host.search_records(request).results
        by_vector = request.mode in (pb.SEARCH_MODE_UNSPECIFIED, pb.SEARCH_MODE_VECTOR)
        return [
            (self.record_from_proto(result.record), result.similarity if by_vector else result.score)
            for result in results
        ]

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
            filters.created_before.CopyFrom(timestamp_of(older_than))
        if not (scope_prefix or categories or record_ids or older_than or metadata_filter):
            filters.scope_prefix = "/"
        given = filters if filters.ByteSize() else None
        return self._host.delete_records(pb.DeleteRecordsRequest(ids=record_ids, filter=given))

    def update(self, record: MemoryRecord) -> None:
        """Replace the record of the same id."""
        own = self._known.setdefault(record.id, {})
        if record.id in self._private:
            # CrewAI leaves both out when it merges memories.
            record = record.model_copy(update={"private": True, "source": self._private[record.id]})
        message = record_to_proto(record, own)
        if (stored := self._read.get(record.id)) is not None:
            keep_unknown_fields(message, stored)
        self._host.save_records(pb.SaveRecordsRequest(records=[message]))

    def rewrite(self, record: MemoryRecord, text: str) -> bool:
        """Give a record that was read another text, unless it was changed since; return whether it has the text.

        It never expires then: what is written into it of a new memory does not.
        """
        message = Record()
        message.CopyFrom(self._read[record.id])
        message.expected_revision = message.revision
        message.unified.content = text
        message.unified.last_accessed.CopyFrom(timestamp_of(datetime.now(UTC)))
        for name in ("embedding", "revision", "expire_time"):
            message.ClearField(name)
        try:
            self._host.save_records(pb.SaveRecordsRequest(records=[message]))
        except TaskError as error:
            if error.reason != "REVISION_MISMATCH":
                raise
            return False
        return True

    def remove_unchanged(self, records: Iterable[MemoryRecord]) -> None:
        """Remove records that were read, but for those that were changed since.

        The memory service cannot compare when it removes: what changes at the very moment is removed all the same.
        """
        for record in records:
            stored = self._get(record.id)
            if stored is not None and stored.revision == self._read[record.id].revision:
                self.delete(record_ids=[record.id])

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return a record, None if there is none of that id."""
        stored = self._get(record_id, include_embedding=True)
        return None if stored is None else self.record_from_proto(stored)

    def _get(self, record_id: str, *, include_embedding: bool = False) -> Record | None:
        source = self._private.get(record_id, "")
        request = pb.GetRecordRequest(id=record_id, include_embedding=include_embedding, source=source)
        response = self._host.get_record(request)
        return response.record if response.HasField("record") else None

    def list_records(self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0) -> list[MemoryRecord]:
        """Return records, newest first."""
        request = pb.ListRecordsRequest(filter=_filter(scope_prefix), page_size=limit + offset)
        return [self.record_from_proto(record) for record in self._host.list_records(request).records[offset:]]

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """Return the figures of a scope and all below it."""
        return scope_from_proto(self._host.get_scope(stored_scope(scope)))

    def list_scopes(self, parent: str = "/") -> list[str]:
        """Return the scopes directly below another."""
        return self._host.list_scopes(stored_scope(parent))

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return how many records each category has."""
        return self._host.list_categories(stored_scope(scope_prefix or ""))

    def count(self, scope_prefix: str | None = None) -> int:
        """Return how many records there are."""
        return self._host.count_records(pb.CountRecordsRequest(filter=_filter(scope_prefix)))

    def reset(self, scope_prefix: str | None = None) -> None:
        """Remove all records of a scope."""
        self.delete(scope_prefix=scope_prefix or "/")

    def touch_records(self, record_ids: list[str]) -> None:
        """Note that records were found just now."""
        recall = _recall.get()
        self._host.touch_records(record_ids, recall.viewer.source if recall else "")

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

    def record_from_proto(self, record: Record) -> MemoryRecord:
        """Return a memory as CrewAI knows it, and remember where it came from."""
        memory, self._known[record.id] = record_from_proto(record)
        self._read[record.id] = record
        self._note_privacy(record.id, record.unified.source, private=record.unified.private)
        return memory


def is_part(record: MemoryRecord) -> bool:
    """Return whether a record is a part of a long result."""
    return PARTS in record.metadata


def _batches(records: Sequence[MemoryRecord]) -> Iterator[list[MemoryRecord]]:
    """Yield records as they are saved together: parts of results apart from others, as they are compared otherwise."""
    for _, alike in groupby(records, is_part):
        some = list(alike)
        for start in range(0, len(some), _SAVED_AT_ONCE):
            yield some[start : start + _SAVED_AT_ONCE]


def _filter(
    scope_prefix: str | None, categories: list[str] | None = None, metadata: dict[str, Any] | None = None
) -> pb.RecordFilter:
    filters = pb.RecordFilter(
        scope_prefix=stored_scope(scope_prefix or ""),
        categories=stored_categories(categories or []),
        metadata={storable(name): to_value(storable_json(value)) for name, value in (metadata or {}).items()},
    )
    recall = _recall.get()
    if recall is not None:
        filters.MergeFrom(recall.viewer)
    return filters
