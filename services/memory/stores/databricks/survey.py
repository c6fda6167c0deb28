"""What an index holds: how many rows can be read as records, and which cannot."""

from collections import Counter
from dataclasses import dataclass, field

from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import Column
from services.memory.rows.parsing import unreadable
from services.memory.rows.row import Row
from services.memory.rows.values import read_text

MOST_NAMED = 100
"""Rows that are named, at most."""
_MOST_KEY_LENGTH = 256


@dataclass(frozen=True, slots=True)
class UnreadableKey:
    """The primary key of a row that is no record, shortened when it is very long, and why it is none."""

    stored_id: str
    why: str


@dataclass(slots=True)
class Survey:
    """Figures of the rows that were looked at."""

    readable: int = 0
    unreadable: int = 0
    named: list[UnreadableKey] = field(default_factory=list)
    """The first of them."""
    by_memory: Counter[str] = field(default_factory=Counter)
    """Records by the memory id under which they are found; an empty one is found in the group alone."""

    def add(self, kind: MemoryKind, row: Row) -> None:
        """Look at a row."""
        why = unreadable(kind, row)
        if not why:
            self.readable += 1
            self.by_memory[read_text(row.get(Column.CREW_ID))] += 1
            return
        self.unreadable += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(UnreadableKey(read_text(row.get(Column.ID))[:_MOST_KEY_LENGTH], why))
