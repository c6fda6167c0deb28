"""Whose access has changed lately: what was remembered of them before has to be asked anew."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.identity.principal import Principal

MARGIN_SECONDS = 2.0
"""What was issued for so long after a change may have been issued without knowledge of it: a change is seen only when
it has been committed, and the clocks of auth's replicas differ."""
EVERYBODY = ""
"""The subject of a change that is about a whole group."""
# Longer than any transaction of a change takes: one that was committed late is asked for again.
_OVERLAP_SECONDS = 60.0
# Longer than anything issued before a change is in use.
_KEPT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class AccessChange:
    """The newest change of one subject's access. Times are seconds since 1970, by auth's clock."""

    subject: str
    """`EVERYBODY`: all of the group, which was deleted."""
    group_id: str
    """Empty: all groups."""
    changed_at: float
    """When membership or role changed, or access was revoked."""
    revoked_at: float = 0.0
    """When access was revoked: principals issued before count no longer. 0: never."""

    def outdates(self, issued_at: float) -> bool:
        """Return whether what was issued at a moment may not know of the change."""
        return issued_at < self.changed_at + MARGIN_SECONDS

    def revokes(self, issued_at: float) -> bool:
        """Return whether a principal that was issued at a moment counts no longer."""
        return self.revoked_at > 0 and issued_at < self.revoked_at + MARGIN_SECONDS


class AccessChangeSource(Protocol):
    """Where changes come from; auth knows them."""

    async def access_changes(self, since: float) -> Sequence[AccessChange]:
        """Return the changes since a moment, in seconds since 1970; 0: all that may still be contradicted."""
        ...


class AccessChanges:
    """The changes this process knows of."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], AccessChange] = {}

    @property
    def since(self) -> float:
        """From when on changes may be new to this process, in seconds since 1970; 0: it knows of none."""
        newest = max((change.changed_at for change in self._known.values()), default=0.0)
        # A clock of auth's that is ahead must not hide what others tell.
        return max(0.0, min(newest, time.time()) - _OVERLAP_SECONDS)

    def learn(self, changes: Sequence[AccessChange]) -> bool:
        """Add what auth lists; return whether something new is among it."""
        listed = {(change.subject, change.group_id): change for change in changes}
        if all(self._known.get(key) == change for key, change in listed.items()):
            return False
        oldest = time.time() - _KEPT_SECONDS
        known = (self._known | listed).items()
        self._known = {key: change for key, change in known if change.changed_at > oldest}
        return True

    def outdated(self, principal: Principal) -> bool:
        """Return whether something about a principal has changed since it was issued."""
        return any(change.outdates(principal.issued_at) for change in self._about(principal))

    def revoked(self, principal: Principal) -> bool:
        """Return whether access was revoked after a principal was issued."""
        return any(change.revokes(principal.issued_at) for change in self._about(principal))

    def _about(self, principal: Principal) -> list[AccessChange]:
        if not self._known:
            return []
        subject, group_id = principal.subject, principal.group_id
        keys = ((subject, group_id), (subject, ""), (EVERYBODY, group_id))
        return [change for key in keys if (change := self._known.get(key)) is not None]
