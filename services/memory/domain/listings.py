"""Lists, counts and the position at which a list continues."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.memory.domain.records import Record


@dataclass(frozen=True, slots=True)
class ListPosition:
    """The sort key of the last record of a page: when it was made (microseconds since 1970) and its stored id."""

    created: int
    stored_id: str


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records, newest first, and whether there are more; fewer than requested where records are long."""

    records: Sequence[Record]
    more: bool
    unreadable: int = 0
    """Rows of the page that are no records and were left out."""
    last: ListPosition | None = None
    """Where the next page continues; None means after the last record."""


@dataclass(frozen=True, slots=True)
class RecordPortion:
    """Some of the records of a namespace that is read through, and where to go on after them, in the store's words."""

    records: Sequence[Record]
    position: str


@dataclass(frozen=True, slots=True)
class Tally:
    """A number of records, exact unless there may be more."""

    count: int
    at_least: bool = False
