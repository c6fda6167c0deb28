"""What changes in the questions of groups, for everybody who watches them."""

import asyncio
from collections.abc import AsyncIterator

from services.common.background import BackgroundTasks
from services.common.feed_topics import Topic, Topics
from services.common.periodic import once
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.domain.question import QuestionChange
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.questions import QuestionChangeReader

_PAGE = 100


class _Inbox(Topic):
    """A group whose questions are watched."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        """The last sequence that is known to exist."""


class QuestionFeed:
    """Follows the questions of groups. Hints only wake watchers: each reads rows at its own pace."""

    def __init__(self, changes: QuestionChangeReader, bus: HintBus, *, safety_read_seconds: float) -> None:
        self._changes = changes
        self._bus = bus
        self._safety_read_seconds = safety_read_seconds
        self._inboxes: Topics[_Inbox] = Topics("sequence")
        self._background = BackgroundTasks()

    async def start(self) -> None:
        """Begin to listen for hints."""
        self._background.start(self._listen())

    def drain(self) -> None:
        """End every `follow`, now and from now on."""
        self._inboxes.drain()

    async def close(self) -> None:
        """Stop listening."""
        await self._background.stop()

    async def follow(self, group_id: str, after: int, newest: int) -> AsyncIterator[list[QuestionChange]]:
        """Yield the changes after a sequence, each once and in order; after 0: what is open now, then what changes.

        `newest` is the last sequence that the group had a moment ago.

        Raises:
            Unavailable: this process ends; follow elsewhere, from the last sequence seen.
        """
        with self._inboxes.followed(group_id, _Inbox) as inbox:
            position = after
            if not after:
                async for opened in self._open(group_id, newest):
                    yield opened
                position = newest
            while True:
                # Taken before the read: what changes during it is read again.
                changed = inbox.changed
                self._inboxes.refuse_when_draining()
                found = await self._changes.after(group_id, position, _PAGE)
                if found:
                    position = found[-1].sequence
                    yield found
                if len(found) < _PAGE:
                    await changed.wait()

    async def _open(self, group_id: str, newest: int) -> AsyncIterator[list[QuestionChange]]:
        position = 0
        while found := await self._changes.open(group_id, position, newest, _PAGE):
            position = found[-1].sequence
            yield found

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        with self._bus.subscribe(HintKind.QUESTIONS_CHANGED) as subscription:
            next_safety_read = loop.time() + self._safety_read_seconds
            while True:
                hints = await subscription.take(max(0.0, next_safety_read - loop.time()))
                if loop.time() >= next_safety_read:
                    next_safety_read = loop.time() + self._safety_read_seconds
                elif not hints:
                    continue
                # Watchers must not end for a database that is away for a moment.
                await once(self._wake_changed, "question_read")

    async def _wake_changed(self) -> None:
        inboxes = self._inboxes.topics
        if not inboxes:
            return
        for group_id, sequence in (await self._changes.newest(list(inboxes))).items():
            inbox = inboxes.get(group_id)
            if inbox is not None and sequence > inbox.last:
                inbox.last = sequence
                inbox.wake()
