"""Who a private record belongs to, and which private records a call is about."""

from datetime import UTC, datetime

import pytest

from services.common.errors import PermissionDenied
from services.common.identity.principal import CredentialKind, Principal, Role
from services.memory.domain.copies import identity_of
from services.memory.domain.filters import Filter
from services.memory.domain.owners import assign_owner, listed_for, named_for, owner_of
from services.memory.domain.records import Record, Unified


def _principal(role: Role = Role.OPERATOR, *, execution_id: str = "", subject: str = "dev|bob") -> Principal:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    return Principal(subject, "sales", role, False, CredentialKind.DEV, "", execution_id, expires)


def _owner(principal: Principal, source: str, *, private: bool = True, owner: str = "") -> str | None:
    record = Record("r", Unified("text", source=source, private=private), owner=owner)
    assign_owner(record, principal)
    return owner_of(record)


def test_a_person_owns_by_their_subject_and_an_agent_of_an_execution_by_its_source() -> None:
    assert _owner(_principal(), "olaf") == "subject:dev|bob"
    assert _owner(_principal(execution_id="e"), "reader") == "agent:reader"
    assert _owner(_principal(execution_id="e"), "") == ""
    assert _owner(_principal(), "bob", private=False) is None


def test_only_editors_may_name_another_owner() -> None:
    assert _owner(_principal(Role.EDITOR), "x", owner="subject:dev|ann") == "subject:dev|ann"
    assert _owner(_principal(), "x", owner="subject:dev|bob") == "subject:dev|bob"
    with pytest.raises(PermissionDenied) as refusal:
        _owner(_principal(), "x", owner="subject:dev|ann")
    assert refusal.value.metadata["required"] == "EDITOR"


def test_lists_leave_private_records_out_unless_a_source_is_named_and_ids_do_not() -> None:
    person, agent = _principal(), _principal(execution_id="e")
    assert listed_for(person, Filter()).owner == ""
    assert listed_for(person, Filter(source="x")).owner == "subject:dev|bob"
    assert named_for(person, Filter()).owner == "subject:dev|bob"
    assert named_for(agent, Filter()).owner == ""
    assert named_for(agent, Filter(source="reader")).owner == listed_for(agent, Filter(source="reader")).owner
    assert listed_for(agent, Filter(source="reader")).owner == "agent:reader"
    # What a caller of the service says of owners changes nothing.
    assert listed_for(person, Filter(owner="subject:dev|ann")).owner == ""
    for narrow in (listed_for, named_for):
        with pytest.raises(PermissionDenied):
            narrow(person, Filter(include_private=True))
        assert narrow(_principal(Role.EDITOR), Filter(include_private=True)).include_private


def test_private_records_of_two_owners_are_two_memories_and_neither_is_the_public_one() -> None:
    records = [Record("", Unified("text", private=True), owner=name) for name in ("subject:a", "subject:b")]
    records.append(Record("", Unified("text"), owner="subject:a"))
    assert len({identity_of(record) for record in records}) == 3
