"""Alerts of groups for everybody who watches them."""

from collections.abc import AsyncIterator

from services.common.db.database import Database
from services.common.errors import InvalidArgument
from services.common.feed_topics import Topic, Topics
from services.common.identity.principal import Principal
from services.models.domain.budget import BudgetAlert
from services.models.repositories.budgets import read_alerts_after, read_last_sequences

_PAGE = 100


class _Group(Topic):
    """A group whose alerts are watched."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        """The last sequence that is known to exist."""


class BudgetAlertFeed:
    """Follows the alerts of groups. Each watcher is woken and reads rows at its own pace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._groups: Topics[_Group] = Topics("sequence")

    def stored(self, group_id: str, sequence: int) -> None:
        """Wake those who watch a group, where they have not been woken for this alert."""
        group = self._groups.topics.get(group_id)
        if group is not None and sequence > group.last:
            group.last = sequence
            group.wake()

    async def look(self) -> None:
        """Look for alerts that other processes have stored.

        Raises:
            Unavailable: the database does not answer.
        """
        if group_ids := list(self._groups.topics):
            for group_id, sequence in (await read_last_sequences(self._database, group_ids)).items():
                self.stored(group_id, sequence)

    async def follow(self, principal: Principal, after: int | None) -> AsyncIterator[tuple[int, list[BudgetAlert]]]:
        """Yield positions and the alerts up to them: those of the caller's group after a sequence, or from now on.

        Each alert comes once and in order. The first position comes at once, without any.

        Raises:
            InvalidArgument: the group has no alert of that sequence yet.
            Unavailable: the database does not answer, or this process ends; follow again from the last position.
        """
        group_id = principal.group_id
        with self._groups.followed(group_id, _Group) as group:
            newest = (await read_last_sequences(self._database, [group_id])).get(group_id, 0)
            if after is not None and after > newest:
                raise InvalidArgument.field(
                    "after_sequence", f"the group's newest alert is {newest}; pass the last sequence you have seen"
                )
            position = newest if after is None else after
            yield position, []
            while True:
                # Taken before the read: what is stored during it is read again.
                changed = group.changed
                self._groups.refuse_when_draining()
                found = await read_alerts_after(self._database, group_id, position, _PAGE)
                if found:
                    position = found[-1].sequence
                    yield position, found
                if len(found) < _PAGE:
                    await changed.wait()

    def drain(self) -> None:
        """End every `follow`, now and from now on."""
        self._groups.drain()
