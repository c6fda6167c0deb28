"""Where pages of records continue: tokens of lists and searches, and how many records fit in a message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.common.clock import utc_now
from services.common.paging import bad_page_token, decode_page_token, encode_page_token
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Record
from services.memory.domain.searches import Found, SearchPosition
from services.memory.rows.parsing import MAX_ID_LENGTH
from services.memory.rows.values import is_encodable

ENVELOPE_BYTES = 64 * 1024
"""Bytes of a message left to what stands beside the records."""
_LISTING = "memories"
_SEARCH = "search"
_MOST_RESULTS = 1 << 62
_MOST_SCORE = 2


@dataclass(frozen=True, slots=True)
class ListPages:
    """The pages of one list: of a namespace, with one filter."""

    key: NamespaceKey
    fingerprint: str
    """Hash of the filter."""

    def position(self, token: str) -> ListPosition | None:
        """Return where a page begins; None is at the beginning.

        Raises:
            InvalidArgument: the token is not of these pages.
        """
        match decode_page_token(token, _LISTING, self._identity()):
            case None:
                return None
            case [int(created), str(stored_id)] if _is_moment(created) and is_stored_id(stored_id):
                return ListPosition(created, stored_id)
            case _:
                raise bad_page_token()

    def token_after(self, record: Record) -> str:
        """Return the token of the page that begins after a stored record."""
        created = 0 if record.created_at is None else microseconds(record.created_at)
        return self.token_at(ListPosition(created, record.stored_id or self.key.stored_id(record.id)))

    def token_at(self, position: ListPosition) -> str:
        """Return the token of the page that begins after a position."""
        return encode_page_token(_LISTING, self._identity(), [position.created, position.stored_id])

    def _identity(self) -> Mapping[str, object]:
        key = self.key
        return {"group": key.group_id, "memory": key.memory_id, "kind": key.kind.name, "filter": self.fingerprint}


@dataclass(frozen=True, slots=True)
class SearchPages:
    """The pages of one search."""

    key: NamespaceKey
    fingerprint: str
    """Hash of everything that pages of the same search have in common."""

    def position(self, token: str) -> tuple[SearchPosition | None, datetime]:
        """Return where a page begins (None: at the beginning), and when the first page was requested.

        Raises:
            InvalidArgument: the token is not of these pages.
        """
        match decode_page_token(token, _SEARCH, self._identity()):
            case None:
                return None, utc_now()
            case [int() | float() as score, str(stored_id), int(asked), int(rank)] if (
                abs(score) < _MOST_SCORE and is_stored_id(stored_id) and _is_moment(asked) and 0 < rank < _MOST_RESULTS
            ):
                return SearchPosition(score, stored_id, rank), moment_of(asked)
            case _:
                raise bad_page_token()

    def token_after(self, found: Found, rank: int, asked_at: datetime) -> str:
        """Return the token of the page that begins after a result, the `rank`th of all pages so far."""
        sort_key: Sequence[Any] = [
            found.score,
            found.record.stored_id or self.key.stored_id(found.record.id),
            microseconds(asked_at),
            rank,
        ]
        return encode_page_token(_SEARCH, self._identity(), sort_key)

    def _identity(self) -> Mapping[str, object]:
        return {"group": self.key.group_id, "search": self.fingerprint}


def fitting(records: Sequence[Record], max_bytes: int) -> int:
    """Return how many of the first records fit in a message, one at least."""
    used = 0
    for number, record in enumerate(records):
        used += record.most_bytes
        if number and used > max_bytes:
            return number
    return len(records)


def _is_moment(us: int) -> bool:
    return microseconds(datetime.min.replace(tzinfo=UTC)) <= us <= microseconds(datetime.max.replace(tzinfo=UTC))


def is_stored_id(text: str) -> bool:
    """Return whether a text of a token can be a primary key or another position of a store."""
    return 0 < len(text) <= MAX_ID_LENGTH and "\0" not in text and is_encodable(text)
