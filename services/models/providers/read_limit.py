"""Limits on how long each of many reads may take, on one timer."""

import asyncio
from types import TracebackType
from typing import Self


class ReadLimit:
    """Ends a read that takes too long with TimeoutError, as `asyncio.timeout_at` does; it serves read after read.

    A timer is set for the earliest read only, and looks when it fires whether a later one has more time: a stream of a
    thousand events needs no thousand timers.
    """

    __slots__ = ("_by", "_cancelling", "_fires_at", "_loop", "_task", "_timer", "expired")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        self._by = 0.0
        self._cancelling = 0
        self.expired = False
        """Whether a read took too long."""

    def until(self, by: float) -> Self:
        """Let the block that follows, in `with`, take until `by`, by the event loop's clock."""
        self._by = by
        return self

    def __enter__(self) -> None:
        # Without the loop, it would be asked which process this is.
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a limit of time needs a task that it can cancel")
        self._task = task
        self._cancelling = task.cancelling()
        if self._timer is None or self._by < self._fires_at:
            self._set_timer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self.expired and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.close()
        self._fires_at = self._by
        self._timer = self._loop.call_at(self._by, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._task is None:
            # Nobody waits: the next read sets the timer anew.
            return
        if self._loop.time() < self._by:
            self._set_timer()
            return
        self.expired = True
        self._task.cancel()
