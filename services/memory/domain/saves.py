"""What a save does with each of its records, decided from what the store holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.common.errors import Aborted, PermissionDenied
from services.memory.domain.copies import chosen_ids, identity_of, merged, merged_subjects, replaced_by
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.owners import owner_of
from services.memory.domain.records import Record


class SaveOutcome(StrEnum):
    """What became of a record that was saved."""

    CREATED = "CREATED"
    REPLACED = "REPLACED"
    """Another record had its id."""
    EXISTING = "EXISTING"
    """It was there already, and was marked as used."""
    MERGED = "MERGED"
    """It was a near-copy of one that was there, whose text it replaced."""


@dataclass(frozen=True, slots=True)
class SavedRecord:
    """The id of a record that was saved, and what became of it."""

    id: str
    outcome: SaveOutcome
    revision: int


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What has to be known of a record that has an id which is saved to."""

    identity: str
    created_at: datetime
    owner: str | None
    """Whose it is, if it is private."""
    revision: int
    subjects: tuple[str, ...]
    """See `Record.subjects`."""


@dataclass(frozen=True, slots=True)
class SavePlan:
    """What to write, each id once, and what to answer, in the order of the records that were given."""

    writes: Sequence[Record]
    positions: Sequence[int]
    """For each of the writes, which of the records that were given has its identity and its words: the last one."""
    saved: Sequence[SavedRecord]


def ids_to_read(
    records: Sequence[Record],
    identities: Sequence[str],
    stored: Mapping[str, StoredRecord | None],
    private_ids: bytes,
) -> list[str]:
    """Return the ids that have to be read before `plan_save` can decide; none when `stored` has all of them.

    `identities` has that of each record.
    """
    wanted = (
        record.id or _free_id(record, identity, stored, private_ids)
        for record, identity in zip(records, identities, strict=True)
    )
    return list(dict.fromkeys(record_id for record_id in wanted if record_id not in stored))


def plan_save(
    records: Sequence[Record],
    identities: Sequence[str],
    stored: Mapping[str, StoredRecord | None],
    same: Mapping[str, Record],
    now: datetime,
    private_ids: bytes,
    near: NearCopies | None = None,
) -> SavePlan:
    """Decide a save as one call for each of the records would, in their order.

    A record with an id is stored under it. One without touches the record that is the same memory, if there is one;
    else it replaces the text of its near-copy, if there is one among `near`. `identities` has that of each record,
    `stored` says what has which of the ids, None for nothing that lives; `same` holds records by their identity.
    `private_ids` is the key of the ids of private records without one: a new one for each save where copies are found
    by their identity, else one that stays.

    Raises:
        PermissionDenied: somebody else's private record has one of the ids.
        Aborted: a record is not at the revision that is expected.
    """
    known = dict(stored)
    by_identity = dict(same)
    writes: dict[str, Record] = {}
    positions: dict[str, int] = {}
    saved: list[SavedRecord] = []
    for position, (record, identity) in enumerate(zip(records, identities, strict=True)):
        existing = None if record.id else by_identity.get(identity)
        copy = near.nearest(record) if near and existing is None and not record.id else None
        if copy is not None and identity_of(copy) == identity:
            # Not every store finds all records by their identity.
            existing = copy
        if existing is not None:
            final, outcome = merged(existing, record, now), SaveOutcome.EXISTING
        elif copy is not None:
            final, outcome = replaced_by(copy, record, now), SaveOutcome.MERGED
            _forget(by_identity, identity_of(copy), copy.id)
        else:
            record_id = record.id or _free_id(record, identity, known, private_ids)
            before = known.get(record_id)
            if before and before.owner is not None and before.owner != record.owner:
                if record.expected_revision:
                    # The answer is the same where nothing is there: nobody finds out without leaving a record.
                    raise _changed(record_id, record.expected_revision, 0)
                raise foreign_private(record_id)
            revision = before.revision if before else 0
            if record.expected_revision not in (None, revision):
                raise _changed(record_id, record.expected_revision or 0, revision)
            created = record.created_at or (before.created_at if before else now)
            final = replace(record, id=record_id, created_at=created, revision=revision + 1)
            outcome = SaveOutcome.REPLACED if before else SaveOutcome.CREATED
            if before:
                if record.keeps_subjects:
                    final.subjects = merged_subjects(before.subjects, record.subjects)
                _forget(by_identity, before.identity, record_id)
        assert final.created_at is not None
        by_identity[identity] = writes[final.id] = final
        if near:
            near.put(final)
        positions[final.id] = position
        known[final.id] = StoredRecord(identity, final.created_at, owner_of(final), final.revision, final.subjects)
        saved.append(SavedRecord(final.id, outcome, final.revision))
    return SavePlan(list(writes.values()), list(positions.values()), saved)


def _forget(by_identity: dict[str, Record], identity: str, record_id: str) -> None:
    """Take note that the record of an id has another identity from now on."""
    if (replaced := by_identity.get(identity)) and replaced.id == record_id:
        del by_identity[identity]


def _changed(record_id: str, expected: int, actual: int) -> Aborted:
    state = f"is at revision {actual}" if actual else "does not exist"
    return Aborted(
        f'the record "{record_id}" {state}, not at {expected}: read it and try again',
        reason="REVISION_MISMATCH",
        metadata={"resource": "memory", "id": record_id, "expected": str(expected), "actual": str(actual)},
    )


def foreign_private(record_id: str) -> PermissionDenied:
    """Return the refusal to replace somebody else's private record."""
    return PermissionDenied(
        f'the record "{record_id}" is private and somebody else\'s: save yours under another id, or without one',
        reason="OWNER_REQUIRED",
        metadata={"id": record_id},
    )


def _free_id(record: Record, identity: str, stored: Mapping[str, StoredRecord | None], private_ids: bytes) -> str:
    """Return the first id for a new record that nothing else is known to have."""
    for record_id in chosen_ids(record, identity, private_ids):
        existing = stored.get(record_id)
        if existing is None or existing.identity == identity:
            return record_id
    raise AssertionError("the ids never end")
