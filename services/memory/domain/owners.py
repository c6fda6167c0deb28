"""Whose a private record is, and who else may see it: nobody, but for editors who ask for private records."""

from dataclasses import replace
from typing import Final

from services.common.errors import PermissionDenied
from services.common.identity.principal import Principal, Role
from services.memory.domain.filters import Filter
from services.memory.domain.records import Record, Unified

SUBJECT: Final = "subject:"
"""What owners that are verified subjects begin with."""


def agent(source: str) -> str:
    """Return the owner that an agent of a crew is, by the `source` it stores as; empty for none in particular."""
    return f"agent:{source}" if source else ""


def caller(principal: Principal, source: str) -> str:
    """Return the owner that a caller is: in an execution the agent named by `source`, else the verified subject."""
    return agent(source) if principal.execution_id else f"{SUBJECT}{principal.subject}"


def owner_of(record: Record) -> str | None:
    """Return the owner of a private record, None for a record that everybody may see.

    One that does not say whose it is belongs to the agent that is its source.
    """
    if not isinstance(record.body, Unified) or not record.body.private:
        return None
    return record.owner or agent(record.body.source)


def assign_owner(record: Record, principal: Principal) -> None:
    """Note who saves a record, and so owns it if it is private; editors may name another owner, to import records.

    Raises:
        PermissionDenied: another owner is named without the role EDITOR.
    """
    record.subjects = (principal.subject,)
    # Who expects a revision has read it, and may have kept what others have said.
    record.keeps_subjects = bool(record.expected_revision)
    if not isinstance(record.body, Unified):
        return
    own = caller(principal, record.body.source)
    if record.owner and record.owner != own:
        require_editor(principal, "unified.owner of somebody else")
    else:
        record.owner = own


def listed_for(principal: Principal, chosen: Filter) -> Filter:
    """Return the filter of a list or search: private records are the caller's own, and of the filter's source.

    Raises:
        PermissionDenied: those of everybody are asked for without the role EDITOR.
    """
    if chosen.include_private:
        require_editor(principal, "filter.include_private")
    owner = caller(principal, chosen.source) if chosen.source else ""
    return chosen if chosen.owner == owner else replace(chosen, owner=owner)


def named_for(principal: Principal, chosen: Filter) -> Filter:
    """Return the filter of a call that names records by their ids: private ones are there if they are the caller's own.

    Raises:
        PermissionDenied: those of everybody are asked for without the role EDITOR.
    """
    return replace(listed_for(principal, chosen), owner=caller(principal, chosen.source))


def require_editor(principal: Principal, what: str) -> None:
    """Refuse what only editors may do.

    Raises:
        PermissionDenied: the principal has a lesser role.
    """
    if principal.role < Role.EDITOR:
        raise PermissionDenied(
            f"{what} needs the role EDITOR; you are {principal.role.name} of this group",
            reason="ROLE_REQUIRED",
            metadata={"required": Role.EDITOR.name, "actual": principal.role.name},
        )
