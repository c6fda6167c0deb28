"""Former versions of records: what a change keeps of what was there, and for how long."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.memory.domain.records import Document, LongTerm, Record, Unified


class VersionEnd(StrEnum):
    """What ended a version."""

    REPLACED = "REPLACED"
    """A save with other contents."""
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a change keeps of the records that it replaces or deletes."""

    by: str
    """The verified subject that makes the change."""
    most: int
    """How many versions of one record are kept, the newest ones; 0 keeps none."""
    days: int = 0
    """For how many days versions are kept after their end."""
    purge: bool = False
    """Whether a deletion takes along what was kept of the same records before."""
    most_bytes: int | None = None
    """How many bytes of versions are kept of the whole group, about; None: as many as there are."""

    def since(self, now: datetime) -> datetime:
        """Return the time before which no version that is kept has ended."""
        return now - timedelta(days=self.days)


@dataclass(frozen=True, slots=True)
class RecordVersion:
    """A record as it was for a while, without its vector."""

    record: Record
    begun_at: datetime
    ended_at: datetime
    end: VersionEnd
    changed_by: str
    """The verified subject that ended it; empty when that was forgotten."""
    place: int
    """Greater than that of every version of the record that ended earlier."""


@dataclass(frozen=True, slots=True)
class HistoryPolicy:
    """How many days a group's former versions are kept; 0 keeps none."""

    days: int
    is_default: bool
    """Whether the group follows the installation's default."""


def same_contents(existing: Record, new: Record) -> bool:
    """Return whether two states of a record say the same; its use, its savers and its vector do not count."""
    return _contents(existing) == _contents(new)


def _contents(record: Record) -> Record:
    body = record.body
    if isinstance(body, Unified | LongTerm):
        body = replace(body, last_accessed=None)
    elif isinstance(body, Document):
        body = replace(body, updated_at=None)
    owner = record.owner if isinstance(body, Unified) and body.private else ""
    return replace(
        record,
        body=body,
        embedding=None,
        created_at=None,
        expires_at=None,
        owner=owner,
        subjects=(),
        revision=0,
        expected_revision=None,
        stored_id="",
    )
