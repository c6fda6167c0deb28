"""Lists, counts and the position at which a list continues."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from services.common.paging import bad_page_token
from services.memory.domain.records import Record

BYTES_AT_ONCE: Final = 16 * 1024 * 1024
"""What is held of records or versions while more could be read: a few full messages."""

# Microseconds of any moment, and an id as stores write it.
_POSITION = re.compile(r"(-?[0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ListPosition:
    """The sort key of the last record of a page: when it was made (microseconds since 1970) and its stored id."""

    created: int
    stored_id: str

    @property
    def text(self) -> str:
        """The position as text, which `parse` reads."""
        return f"{self.created}:{self.stored_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a position.

        Raises:
            InvalidArgument: it is none.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise bad_page_token()
        return cls(int(match[1]), match[2])


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
class Tally:
    """A number of records, exact unless there may be more."""

    count: int
    at_least: bool = False
