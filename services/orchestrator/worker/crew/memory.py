"""CrewAI's memory without the model calls it makes on its own account.

By default CrewAI has a model extract, analyse, consolidate and query: up to ten calls in a crew of three tasks, besides
its own three. `ResultMemory` stores each task's result as it is, a long one in parts, and recalls by similarity.
`AnalysedMemory` leaves CrewAI its ways, for crews that ask for them. In both, what could not be saved ends the task.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, Self

from crewai.memory.types import MemoryMatch, MemoryRecord, compute_composite_score
from crewai.memory.unified_memory import Memory
from crewai.memory.utils import join_scope_paths, sanitize_scope_name
from pydantic import PrivateAttr

from services.common.visible_text import has_visible_text
from services.orchestrator.domain.crew import ConsolidationSpec, MemorySpec
from services.orchestrator.worker.crew.consolidation import Consolidation
from services.orchestrator.worker.crew.embedder import embedder
from services.orchestrator.worker.crew.memory_storage import ServiceMemoryStorage, noting_texts, seen_by
from services.orchestrator.worker.crew.text_splitter import split_text
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.result_parts import PART, PARTS

if TYPE_CHECKING:
    from crewai.llms.base_llm import BaseLLM

    from services.orchestrator.worker.crew.attempt import TaskAttempt

_QUERY_BYTES = 60_000


class _TaskMemory(Memory):
    """The memory of one attempt at a task."""

    _attempt: Any = PrivateAttr()
    _analyst: Any = PrivateAttr()
    """The model that is asked about memories."""
    _is_held: bool = PrivateAttr(default=False)
    """Whether a person has to approve the task's result before it is saved."""

    @classmethod
    def of(cls, attempt: "TaskAttempt", llm: "BaseLLM", *, approved: bool = False) -> Self:
        """Return the memory of a crew as one of its tasks sees it, or to save its `approved` result."""
        spec = attempt.session.spec
        memory = cls(
            llm=llm,
            storage=ServiceMemoryStorage(attempt),
            embedder=noting_texts(embedder(attempt, spec.memory.embedding_model)),
            root_scope=spec.memory_scope,
            read_only=spec.memory.read_only,
            **_settings(spec.memory),
        )
        memory._attempt, memory._analyst = attempt, llm
        memory._is_held = attempt.task.human_approval and not approved
        return memory

    def forget_earlier_attempts(self) -> None:
        """Remove what attempts before this one have saved."""
        storage: Any = self._storage
        storage.forget_earlier_attempts()

    def _root_of(self, agent_role: str) -> str:
        return f"{self.root_scope}/agent/{sanitize_scope_name(agent_role)}"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Stay the same object: it stands for what one task stores."""
        return self

    def _submit_save(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Save at once and not behind the task's back; CrewAI would log a failure and call the task a success."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except TaskError as error:
            future.set_exception(self._attempt.fail(error))
        except Exception as error:  # noqa: BLE001 - the future carries it, the attempt remembers it
            failed = self._attempt.fail(TaskError("TASK_FAILED", f"a memory was not saved: {error}"))
            # A limit of the process may be behind it, which is then what the task is told to have failed of.
            failed.__cause__ = error
            future.set_exception(failed)
        return future

    def recall(
        self,
        query: str,
        scope: str | None = None,
        categories: list[str] | None = None,
        limit: int = 10,
        depth: Literal["shallow", "deep"] = "deep",
        source: str | None = None,
        include_private: bool = False,
    ) -> list[MemoryMatch]:
        """Return memories relevant to a query, best first.

        Raises:
            HookAborted: the memory service failed; CrewAI would continue as if there were no memories.
        """
        try:
            with seen_by(source, include_private=include_private):
                matches = self._recall(query, scope, categories, limit, depth, source, include_private)
        except TaskError as error:
            raise self._attempt.fail(error) from error
        # A deep recall joins several searches, none of which finds a text twice.
        distinct: dict[str, MemoryMatch] = {}
        for match in matches:
            distinct.setdefault(match.record.content.strip(), match)
        return list(distinct.values())

    def _recall(
        self,
        query: str,
        scope: str | None,
        categories: list[str] | None,
        limit: int,
        depth: Literal["shallow", "deep"],
        source: str | None,
        include_private: bool,
    ) -> list[MemoryMatch]:
        return super().recall(query, scope, categories, limit, depth, source, include_private)


class AnalysedMemory(_TaskMemory):
    """Memory as CrewAI means it, analysed by a model."""

    def extract_memories(self, content: str) -> list[str]:
        """Return what a model finds worth remembering; nothing while the result has to be approved."""
        return [] if self._is_held or self.read_only else super().extract_memories(content)

    def save_result(self, text: str, agent_role: str) -> None:
        """Do nothing: CrewAI has had the result analysed and saved."""

    def save_approved(self, text: str, agent_role: str) -> None:
        """Have an approved result analysed, and save what is found, as CrewAI does when an agent has finished.

        Raises:
            HookAborted: it was not stored.
        """
        task = self._attempt.task
        content = (
            f"Task: {task.description}\nAgent: {agent_role}\nExpected result: {task.expected_output}\nResult: {text}"
        )
        found = self.extract_memories(content)
        if found:
            self.remember_many(found, agent_role=agent_role, root_scope=self._root_of(agent_role))
            self._attempt.check()


class ResultMemory(_TaskMemory):
    """Memory of results, without a model."""

    def extract_memories(self, content: str) -> list[str]:  # noqa: ARG002
        """Return nothing: CrewAI asks after every answer, refused ones and prompts included; see `save_result`."""
        return []

    def save_result(self, text: str, agent_role: str) -> None:
        """Store the result of the task in the scope of the agent that gave it, unless it has to be approved first.

        Raises:
            HookAborted: it was not stored.
        """
        if not self._is_held:
            self.save_approved(text, agent_role)

    def save_approved(self, text: str, agent_role: str) -> None:
        """Store the result of the task in the scope of the agent that gave it.

        Raises:
            HookAborted: it was not stored.
        """
        self.remember(text, agent_role=agent_role, root_scope=self._root_of(agent_role))

    def _encode_batch(
        self,
        contents: list[str],
        scope: str | None = None,
        categories: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        importance: float | None = None,
        source: str | None = None,
        private: bool = False,
        root_scope: str | None = None,
    ) -> list[MemoryRecord]:
        records = [
            MemoryRecord(
                content=part,
                scope=join_scope_paths(root_scope, scope),
                categories=categories or [],
                metadata=(metadata or {}) | ({PART: number, PARTS: len(parts)} if len(parts) > 1 else {}),
                importance=self.default_importance if importance is None else importance,
                source=source,
                private=private,
            )
            for content in contents
            for parts in [list(split_text(content))]
            for number, part in enumerate(parts, start=1)
            if has_visible_text(part)
        ]
        storage: Any = self._storage
        spec = self._attempt.session.spec.memory
        if spec.consolidation is None:
            storage.save(records)
        else:
            consolidation = Consolidation(
                storage,
                self._analyst,
                similarity=self.consolidation_threshold,
                limit=self.consolidation_limit,
                near_copy_similarity=spec.near_copy_similarity,
            )
            consolidation.save(records)
        return records

    def _recall(
        self,
        query: str,
        scope: str | None,
        categories: list[str] | None,
        limit: int,
        depth: Literal["shallow", "deep"],  # noqa: ARG002 - a deep search needs a model
        source: str | None,  # noqa: ARG002 - who asks is said to the storage
        include_private: bool,  # noqa: ARG002
    ) -> list[MemoryMatch]:
        text = query.encode()[:_QUERY_BYTES].decode(errors="ignore")
        if not has_visible_text(text):
            return []
        within = join_scope_paths(self.root_scope, scope)
        storage: Any = self._storage
        matches = []
        for record, similarity in storage.search_text(text, within, categories, limit):
            score, reasons = compute_composite_score(record, similarity, self._config)
            matches.append(MemoryMatch(record=record, score=score, match_reasons=reasons))
        if matches and not self.read_only:
            storage.touch_records([match.record.id for match in matches])
        return sorted(matches, key=lambda match: match.score, reverse=True)


def _settings(spec: MemorySpec) -> dict[str, Any]:
    """Return the settings of CrewAI's memory that a crew has chosen itself."""
    recall, consolidation = spec.recall, spec.consolidation or ConsolidationSpec()
    chosen = {
        "semantic_weight": recall.semantic_weight,
        "recency_weight": recall.recency_weight,
        "importance_weight": recall.importance_weight,
        "recency_half_life_days": recall.recency_half_life_days or None,
        "consolidation_threshold": consolidation.similarity,
        "consolidation_limit": consolidation.limit or None,
    }
    return {name: value for name, value in chosen.items() if value is not None}
