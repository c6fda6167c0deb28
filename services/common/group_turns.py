"""Places that are few, such as connections to a database, and groups that take turns at them or have some each."""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from weakref import WeakValueDictionary


@dataclass(slots=True)
class _Work(contextlib.AbstractContextManager[None]):
    """What is done for a group until its context ends."""

    group_id: str

    def __enter__(self) -> None:
        _work.set(self)

    def __exit__(self, *_raised: object) -> None:
        # Tasks that go on have a copy of the context.
        self.group_id = ""


_work: ContextVar[_Work | None] = ContextVar("coxswain_work", default=None)


def working_for(group_id: str) -> contextlib.AbstractContextManager[None]:
    """Do what follows for a group, and so does each task that is started in it, until the context ends."""
    return _Work(group_id)


def work_for_nobody() -> None:
    """Do the rest of this task for no group alone: others than the one that it was started for need it, too."""
    _work.set(None)


def nobodys_context() -> contextvars.Context:
    """Return a copy of the context for a task that works for no group alone."""
    context = contextvars.copy_context()
    context.run(work_for_nobody)
    return context


def group_of_work() -> str:
    """Return the group that is worked for; empty for work that is no group's alone."""
    work = _work.get()
    return "" if work is None else work.group_id


class GroupTurns:
    """A number of places; each group has one at a time of those who wait for a place, in the order of their coming.

    So a group waits for one of each other group's, and not for all that they have asked for. What is no group's takes
    turns as one group.
    """

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._groups: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def full(self) -> bool:
        """Return whether the next one has to wait."""
        return self._places.locked()

    async def take(self, group_id: str) -> None:
        """Take a place, once there is one and it is the group's turn; it has to be given back with `release`."""
        if not self._places.locked():
            await self._places.acquire()
            return
        group = self._groups.get(group_id)
        if group is None:
            group = self._groups[group_id] = asyncio.Lock()
        async with group:
            await self._places.acquire()

    def release(self) -> None:
        """Give a place back."""
        self._places.release()

    @contextlib.asynccontextmanager
    async def place(self, group_id: str) -> AsyncIterator[None]:
        """Hold a place, once there is one and it is the group's turn."""
        await self.take(group_id)
        try:
            yield
        finally:
            self.release()
