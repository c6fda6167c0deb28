"""Cancels at its source what nobody waits for any more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from services.common.background import BackgroundTasks


class CancellableCall(Protocol):
    """A call that is made at a source."""

    @property
    def sent(self) -> bool:
        """Whether the source may know the call."""

    @property
    def goes_on(self) -> bool:
        """See `CallProgress`."""

    async def cancel(self) -> None:
        """Tell the source that nobody waits any more, as far as it can be told."""


class CallCancelling:
    """Tells sources of calls whose tasks are cancelled."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long a source may take to be told."""
        self._seconds = seconds
        self._tasks = BackgroundTasks()

    @contextlib.asynccontextmanager
    async def with_task(self, call: CancellableCall) -> AsyncIterator[None]:
        """Cancel a call at its source if the task that runs this is cancelled, unless the call goes on."""
        try:
            yield
        except asyncio.CancelledError:
            if call.sent and not call.goes_on:
                # Beside the task that is cancelled, which must end now.
                self._tasks.start(self._cancel(call))
            raise

    async def stop(self) -> None:
        """Give up what is still being told."""
        await self._tasks.stop()

    async def _cancel(self, call: CancellableCall) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await call.cancel()
