"""What agents know: texts, embedded through the host and searched in this process, and records of memories."""

import asyncio
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage
from pydantic import PrivateAttr

from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.storable import storable
from services.orchestrator.domain.crew import KnowledgeMemory, KnowledgeSpec
from services.orchestrator.messages.knowledge import knowledge_namespace, records_filter
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.embedder import embed
from services.orchestrator.worker.link.errors import TaskError

_QUERY_BYTES = 60_000
_SPARE = 4
"""So many times the results that are wanted are asked for: some may be for other agents only."""


@dataclass(frozen=True, slots=True)
class _Found:
    id: str
    content: str
    score: float
    """From 0 to 1, as CrewAI's own store counts them."""


class KnowledgeStorage(BaseKnowledgeStorage):
    """Chunks of texts, and memories that are asked each time."""

    _attempt: TaskAttempt = PrivateAttr()
    _model: str = PrivateAttr()
    _chunks: list[str] = PrivateAttr(default_factory=list)
    _memories: list[KnowledgeMemory] = PrivateAttr(default_factory=list)
    _readers: AbstractSet[str] = PrivateAttr(default_factory=frozenset)

    @classmethod
    def over(
        cls, attempt: TaskAttempt, model: str, sources: Sequence[KnowledgeSpec], readers: AbstractSet[str]
    ) -> "KnowledgeStorage":
        """Return what `readers`, by their names, can look up in some sources; `model` embeds the texts."""
        storage = cls()
        storage._attempt = attempt
        storage._model = model
        storage._readers = readers
        for source in sources:
            text = source.content
            if source.memory is not None:
                storage._memories.append(source.memory)
            else:
                storage._chunks += StringKnowledgeSource(content=text)._chunk_text(text)  # noqa: SLF001
        return storage

    def search(
        self,
        query: list[str],
        limit: int = 5,
        metadata_filter: dict[str, Any] | None = None,  # noqa: ARG002 - texts have none, and no agent asks with one
        score_threshold: float = 0.6,
    ) -> list[Any]:
        """Return the chunks and records nearest to the query, best first.

        Raises:
            HookAborted: embedding or a search failed; CrewAI would continue without knowledge and say nothing.
        """
        try:
            found = self._in_texts("\n".join(query)) if self._chunks else []
            for memory in self._memories:
                found += self._in_memory(memory, "\n".join(query), limit)
        except TaskError as error:
            raise self._attempt.fail(error) from error
        found.sort(key=lambda one: -one.score)
        best = [one for one in found[:limit] if one.score >= score_threshold]
        self._attempt.materials += [one.content for one in best]
        return [{"id": one.id, "content": one.content, "metadata": {}, "score": one.score} for one in best]

    def _in_texts(self, query: str) -> list[_Found]:
        *chunks, asked = self._vectors([*self._chunks, query])
        scores = (1 + np.asarray(chunks) @ np.asarray(asked)) / 2
        return [
            _Found(str(index), chunk, float(score))
            for index, (chunk, score) in enumerate(zip(self._chunks, scores, strict=True))
        ]

    def _in_memory(self, memory: KnowledgeMemory, query: str, limit: int) -> Iterator[_Found]:
        request = memory_pb2.SearchRecordsRequest(
            namespace=knowledge_namespace(memory),
            text=storable(query).encode()[:_QUERY_BYTES].decode(errors="ignore"),
            filter=records_filter(memory.scope, memory.document_ids),
            limit=limit * _SPARE,
        )
        for result in self._attempt.host.search_knowledge(request).results:
            if self._readers <= set(result.record.document.agent_ids or self._readers):
                yield _Found(result.record.id, _content(result.record), (1 + result.similarity) / 2)

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        known: dict[tuple[str, str], list[float]] = self._attempt.session.vectors
        missing = [text for text in dict.fromkeys(texts) if (self._model, text) not in known]
        for text, vector in zip(missing, embed(self._attempt, self._model, missing), strict=True):
            known[self._model, text] = vector
        return [known[self._model, text] for text in texts]

    async def asearch(
        self,
        query: list[str],
        limit: int = 5,
        metadata_filter: dict[str, Any] | None = None,
        score_threshold: float = 0.6,
    ) -> list[Any]:
        """See `search`."""
        return await asyncio.to_thread(self.search, query, limit, metadata_filter, score_threshold)

    def save(self, documents: list[str]) -> None:
        """Add chunks."""
        self._chunks += documents

    async def asave(self, documents: list[str]) -> None:
        """See `save`."""
        self.save(documents)

    def reset(self) -> None:
        """Forget everything."""
        self._chunks.clear()

    async def areset(self) -> None:
        """See `reset`."""
        self.reset()


def _content(record: record_pb2.Record) -> str:
    """Return what a record says, whatever its kind."""
    kind = record.WhichOneof("kind") or "unified"
    if kind == "entity":
        return f"{record.entity.entity_name}: {record.entity.description}"
    content: str = getattr(record, kind).content
    return f"[{place}]\n{content}" if (place := _place(record.document)) else content


def _place(part: record_pb2.DocumentRecord) -> str:
    """Return where a part of a document stands, for whoever is to name the source; empty for other records."""
    if not part.document_revision:
        return ""
    page = f"page {part.page}" if part.page else ""
    return ", ".join(text for text in (part.title, part.section, page) if text)
