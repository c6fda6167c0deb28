"""Whose access has changed lately: what was remembered of them before has to be asked anew."""

from dataclasses import dataclass
from typing import Protocol

from services.common.identity.principal import Principal


@dataclass(frozen=True, slots=True)
class AccessChange:
    """The newest change of one subject's access. Times are seconds since 1970, by auth's clock."""

    subject: str
    group_id: str
    """Empty: all groups."""
    changed_at: float
    """When membership or role changed, or access was revoked."""
    revoked_at: float = 0.0
    """When access was revoked: principals issued before count no longer. 0: never."""


class AccessChangeSource(Protocol):
    """Where changes come from; auth knows them."""

    async def access_changes(self) -> list[AccessChange]:
        """Return the changes that a principal issued before may still contradict."""
        ...


class AccessChanges:
    """The changes this process knows of."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], AccessChange] = {}

    def replace(self, changes: list[AccessChange]) -> bool:
        """Take over what auth lists now; return whether something new is among it."""
        listed = {(change.subject, change.group_id): change for change in changes}
        is_new = any(self._known.get(key) != change for key, change in listed.items())
        self._known = listed
        return is_new

    def outdated(self, principal: Principal) -> bool:
        """Return whether something about a principal has changed since it was issued."""
        return any(principal.issued_at < change.changed_at for change in self._about(principal))

    def revoked(self, principal: Principal) -> bool:
        """Return whether access was revoked after a principal was issued."""
        return any(principal.issued_at < change.revoked_at for change in self._about(principal))

    def _about(self, principal: Principal) -> list[AccessChange]:
        if not self._known:
            return []
        keys = ((principal.subject, principal.group_id), (principal.subject, ""))
        return [change for key in keys if (change := self._known.get(key)) is not None]
