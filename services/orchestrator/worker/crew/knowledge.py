"""Texts agents know: embedded through the host, kept and searched in this process."""

import asyncio
from typing import Any

import numpy as np
from crewai.knowledge.knowledge import Knowledge
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage
from pydantic import PrivateAttr

from services.orchestrator.domain.crew import KnowledgeSpec
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.embedder import embed
from services.orchestrator.worker.link.errors import TaskError


class TextKnowledge(BaseKnowledgeStorage):
    """Chunks of text and their vectors."""

    _attempt: TaskAttempt = PrivateAttr()
    _model: str = PrivateAttr()
    _chunks: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def over(cls, attempt: TaskAttempt, model: str, texts: tuple[KnowledgeSpec, ...]) -> Knowledge:
        """Return CrewAI's knowledge of some texts, embedded by `model`."""
        storage = cls()
        storage._attempt = attempt
        storage._model = model
        for text in texts:
            storage._chunks += StringKnowledgeSource(content=text.content)._chunk_text(text.content)  # noqa: SLF001
        return Knowledge(collection_name="texts", sources=[], storage=storage)

    def search(
        self,
        query: list[str],
        limit: int = 5,
        metadata_filter: dict[str, Any] | None = None,  # noqa: ARG002 - texts have no metadata
        score_threshold: float = 0.6,
    ) -> list[Any]:
        """Return the chunks nearest to the query, best first. Scores go from 0 to 1, as CrewAI's own store counts them.

        Raises:
            HookAborted: embedding failed; CrewAI would continue without knowledge and say nothing.
        """
        try:
            *chunks, asked = self._vectors([*self._chunks, "\n".join(query)])
        except TaskError as error:
            raise self._attempt.fail(error) from error
        if not chunks:
            return []
        scores = (1 + np.asarray(chunks) @ np.asarray(asked)) / 2
        best = [int(index) for index in np.argsort(-scores, kind="stable")[:limit] if scores[index] >= score_threshold]
        self._attempt.materials += [self._chunks[index] for index in best]
        return [
            {"id": str(index), "content": self._chunks[index], "metadata": {}, "score": float(scores[index])}
            for index in best
        ]

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
