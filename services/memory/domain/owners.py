"""Whose a private record is."""

from services.common.identity.principal import Principal
from services.memory.domain.records import Record, Unified


def agent(source: str) -> str:
    """Return the owner that an agent of a crew is, by the `source` it stores as; empty for none in particular."""
    return f"agent:{source}" if source else ""


def caller(principal: Principal, source: str) -> str:
    """Return the owner that a caller is: in an execution the agent named by `source`, else the verified subject."""
    return agent(source) if principal.execution_id else f"subject:{principal.subject}"


def assign_owner(record: Record, principal: Principal) -> None:
    """Make a private record the caller's own."""
    if isinstance(record.body, Unified) and record.body.private:
        record.owner = caller(principal, record.body.source)
