"""Consolidation: a model decides what becomes of memories that say much the same, where a crew asks for it.

CrewAI's own shows the model the first 200 characters of a memory and lets it rewrite the whole; results are longer.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crewai.memory.analyze import ConsolidationPlan
from crewai.memory.types import MemoryRecord
from crewai.utilities.i18n import I18N_DEFAULT

from services.common.storable import storable
from services.common.visible_text import has_visible_text
from services.orchestrator.worker.crew.memory_storage import ServiceMemoryStorage, is_part

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.llm import HostLLM

_MOST_QUESTIONS = 10
"""Questions about one result; its further parts are stored as they are."""
_LONGEST_TEXT = 32_000
"""Characters of a text that a model may write."""


class Consolidation:
    """Saves new memories beside, instead of, or within those there are.

    Nothing is lost of a new memory: it is stored unless the model has written it into another one, or says that one
    which stays has all of it. A question is asked once, however often the task is attempted: its answer is journaled
    under what is new, and applying it again changes nothing. Once one could not be answered, no other one is asked.
    """

    def __init__(
        self,
        storage: ServiceMemoryStorage,
        llm: "HostLLM",
        *,
        similarity: float,
        limit: int,
        near_copy_similarity: float,
    ) -> None:
        """New memories are compared with at most `limit` others, as similar as `similarity`.

        No question is asked about one as similar as `near_copy_similarity` (0: none): saving it takes care of that.
        """
        self._storage = storage
        self._llm = llm
        self._similarity = similarity
        self._limit = limit
        self._near_copy_similarity = near_copy_similarity
        self._questions = 0

    def save(self, records: Sequence[MemoryRecord]) -> None:
        """Save new memories.

        Raises:
            HookAborted: the task has to end.
        """
        for record in records:
            if has_visible_text(record.content) and not self._is_placed(record):
                self._storage.save([record])

    def _is_placed(self, record: MemoryRecord) -> bool:
        """Have a model say what becomes of a new memory; return whether it need not be stored beside the others."""
        similar = self._storage.similar(record, self._similarity, self._limit)
        copied = any(self._is_copy(record, *other) for other in similar)
        if not similar or copied or self._questions == _MOST_QUESTIONS:
            return False
        self._questions += 1
        shown = {other.id: other for other, _ in similar}
        plan = self._llm.consider(
            _messages(record, list(shown.values())), ConsolidationPlan, question=_question(record)
        )
        if not isinstance(plan, ConsolidationPlan):
            # A result is not held up by a model that is away, once for each of its parts.
            self._questions = _MOST_QUESTIONS
            return False
        self._apply(plan, record, shown)
        return True

    def _is_copy(self, record: MemoryRecord, other: MemoryRecord, similarity: float) -> bool:
        """Return whether the memory service alone will find that a memory is there."""
        if other.scope != record.scope:
            return False
        near = self._near_copy_similarity and similarity >= self._near_copy_similarity and not is_part(record)
        return bool(near) or other.content.rstrip() == record.content.rstrip()

    def _apply(self, plan: ConsolidationPlan, record: MemoryRecord, shown: dict[str, MemoryRecord]) -> None:
        rewritten: dict[str, str] = {}
        removed: set[str] = set()
        all_can_be_done = True
        for action in plan.actions:
            # Of several about one memory the first counts, and those about memories that it was not shown do not.
            counts = action.record_id in shown and action.record_id not in rewritten.keys() | removed
            text = storable(action.new_content or "").strip()
            if counts and action.action == "delete":
                removed.add(action.record_id)
            elif counts and action.action == "update" and has_visible_text(text) and len(text) <= _LONGEST_TEXT:
                rewritten[action.record_id] = text
            elif action.action == "update":
                # What it would have written of the new memory is nowhere else.
                all_can_be_done = False
        written = [
            shown[each].content.strip() == text or self._storage.rewrite(shown[each], text)
            for each, text in rewritten.items()
        ]
        kept = shown.keys() - removed - rewritten.keys()
        placed = not plan.insert_new and all_can_be_done and all(written) and bool(written or kept)
        if not placed:
            self._storage.save([record])
        # Last of all: what takes their place is there.
        self._storage.remove_unchanged(shown[each] for each in sorted(removed))


def _question(record: MemoryRecord) -> str:
    return hashlib.sha256(f"consolidation\n{record.scope}\n{record.content}".encode(errors="replace")).hexdigest()


def _messages(record: MemoryRecord, similar: Sequence[MemoryRecord]) -> list[dict[str, str]]:
    summary = "\n\n".join(
        f"- id={other.id} | scope={other.scope} | importance={other.importance:.2f} | "
        f"created={other.created_at.isoformat()}\n  content: {other.content}"
        for other in similar
    )
    user = I18N_DEFAULT.memory("consolidation_user").format(new_content=record.content, records_summary=summary)
    return [
        {"role": "system", "content": I18N_DEFAULT.memory("consolidation_system")},
        {"role": "user", "content": user},
    ]
