"""Places for those who post to webhooks, and what slow receivers may have of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from services.common.group_turns import GroupTurns

_WEBHOOKS_AT_ONCE = 16
# A receiver may take as long as an attempt may last.
_WEBHOOKS_OF_A_GROUP_AT_ONCE = 4
_SLOW_AT_ONCE = 64
_SLOW_SECONDS = 1.0


class WebhookPlaces:
    """Places that groups take turns at.

    A webhook whose receivers have not answered after a second gives its place to others and goes on beside them: slow
    receivers of some groups hold up no others. There is room for 64 of these, four of each group.
    """

    def __init__(self) -> None:
        self._turns = GroupTurns(_WEBHOOKS_AT_ONCE)
        self._slow = 0
        self._of_groups: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def place(self, group_id: str) -> AsyncIterator[None]:
        """Hold a place, once there is one and it is the group's turn."""
        of_group = self._of_groups.get(group_id)
        if of_group is None:
            of_group = self._of_groups[group_id] = asyncio.Semaphore(_WEBHOOKS_OF_A_GROUP_AT_ONCE)
        async with of_group:
            await self._turns.take(group_id)
            held = _Held(self)
            try:
                yield
            finally:
                held.give_back()

    def leave(self) -> bool:
        """Let one of those who hold a place go on as a slow one, if there is room."""
        if self._slow >= _SLOW_AT_ONCE:
            return False
        self._slow += 1
        self._turns.release()
        return True

    def give_back(self, *, slow: bool) -> None:
        """Take back what somebody held."""
        if slow:
            self._slow -= 1
        else:
            self._turns.release()


class _Held:
    """A place that somebody holds."""

    def __init__(self, places: WebhookPlaces) -> None:
        self._places = places
        self._slow = False
        self._wait()

    def give_back(self) -> None:
        self._timer.cancel()
        self._places.give_back(slow=self._slow)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._leave)

    def _leave(self) -> None:
        self._slow = self._places.leave()
        if not self._slow:
            self._wait()
