"""Near-copies: records that say nearly the same, as their vectors show, in the same place."""

from collections.abc import Iterable

import numpy as np

from services.memory.domain.copies import setting_of
from services.memory.domain.records import Record


class NearCopies:
    """What the records of a save may be near-copies of, as it is while the save is decided."""

    def __init__(self, similarity: float) -> None:
        """`similarity` is the cosine similarity from which two records are near-copies."""
        self._similarity = similarity
        self._records: dict[str, Record] = {}
        self._by_setting: dict[tuple[str, ...], dict[str, Record]] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Add records of the store."""
        for record in records:
            self.put(record)

    def put(self, record: Record) -> None:
        """Add a record, in the place of what has its id."""
        before = self._records.get(record.id)
        if before is not None:
            del self._by_setting[setting_of(before)][record.id]
        self._records[record.id] = record
        self._by_setting.setdefault(setting_of(record), {})[record.id] = record

    def nearest(self, record: Record) -> Record | None:
        """Return what a record is a near-copy of: the most similar one, the oldest of equal ones."""
        vector = record.embedding
        if vector is None:
            return None
        others = [
            other
            for other in self._by_setting.get(setting_of(record), {}).values()
            # Rows that something else has written may have any vector, or none.
            if other.embedding is not None and len(other.embedding) == len(vector)
        ]
        if not others:
            return None
        similarities = np.stack([other.embedding for other in others if other.embedding is not None]) @ vector
        best = max(range(len(others)), key=lambda position: (similarities[position], _age(others[position])))
        return others[best] if similarities[best] >= self._similarity else None


def _age(record: Record) -> float:
    return -record.created_at.timestamp() if record.created_at is not None else 0.0
