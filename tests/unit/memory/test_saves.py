"""What a save decides, and what it tells of other people's private records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.common.errors import Aborted, PermissionDenied
from services.memory.domain.copies import chosen_ids, identities_of, identity_of
from services.memory.domain.namespaces import NamespaceKey, namespace_secret
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.saves import SavePlan, StoredRecord, plan_save

NOW = datetime(2026, 6, 1, tzinfo=UTC)
THEIRS = StoredRecord("other", NOW, "subject:bob", 3, ("bob",))


def _private(text: str = "secret") -> Record:
    return Record("", Unified(text, private=True), owner="subject:olaf")


def _ids(record: Record, key: bytes) -> Iterator[str]:
    return chosen_ids(record, identity_of(record), key)


def _plan(records: Sequence[Record], stored: Mapping[str, StoredRecord | None]) -> SavePlan:
    return plan_save(records, identities_of(records), stored, {}, NOW, b"key")


def test_ids_of_private_records_follow_from_the_key_and_those_of_others_from_the_record_alone() -> None:
    record = _private()
    ids = [next(_ids(record, key)) for key in (b"a", b"a", b"b")]
    assert ids[0] == ids[1] != ids[2]
    assert identity_of(record)[:32] not in ids
    public = Record("", Unified("known"))
    assert next(_ids(public, b"a")) == next(_ids(public, b"b"))
    one, other = (namespace_secret(b"a", NamespaceKey("g", crew, MemoryKind.UNIFIED)) for crew in "xy")
    assert next(_ids(record, one)) != next(_ids(record, other))


def test_equal_private_records_of_one_save_are_one() -> None:
    first, again = _plan([_private(), _private()], {}).saved
    assert first.id == again.id == next(_ids(_private(), b"key"))


@pytest.mark.parametrize("expected", [1, 3])
def test_who_expects_a_revision_is_told_the_same_of_what_is_private_and_of_what_is_missing(expected: int) -> None:
    record = replace(_private(), id="r", expected_revision=expected)
    answers = []
    for there in (THEIRS, None):
        with pytest.raises(Aborted) as refusal:
            _plan([record], {"r": there})
        answers.append((str(refusal.value), refusal.value.reason, refusal.value.metadata))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("expected", [None, 0])
def test_a_private_record_of_somebody_else_is_never_replaced(expected: int | None) -> None:
    record = replace(_private(), id="r", expected_revision=expected)
    with pytest.raises(PermissionDenied):
        _plan([record], {"r": THEIRS})


@pytest.mark.parametrize(
    ("before", "expected"), [(("bob",), ("bob", "ann")), (("bob", "ann"), ("bob", "ann")), ((), ("", "ann"))]
)
def test_what_replaces_a_revision_that_was_read_is_tied_to_those_who_had_saved_it(
    before: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    there = StoredRecord("other", NOW, None, 3, before)
    newer = Record("r", Unified("both"), subjects=("ann",))
    read = replace(newer, expected_revision=3, keeps_subjects=True)
    assert [write.subjects for write in _plan([read], {"r": there}).writes] == [expected]
    # One that was not read has nothing of it, and who forgets somebody expects a revision, too.
    for other in (newer, replace(newer, expected_revision=3)):
        assert [write.subjects for write in _plan([other], {"r": there}).writes] == [("ann",)]


def test_a_changed_copy_of_a_record_carries_no_bytes_of_the_one_before() -> None:
    record = _private()
    record.encoded = b"sent"
    assert replace(record, body=Unified("other")).encoded is None
