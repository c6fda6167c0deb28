"""Futures for those who wait by the hundred and may all be cancelled in one moment: few end in each round of the loop.

A client that goes away, or whose deadline comes, ends all its calls at once. What each does at its end is one step of
the event loop, and everybody else would wait until the last one has done it.
"""

import asyncio
from collections import deque
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

# A call of somebody else takes some ten rounds, and an end a quarter of a millisecond.
_IN_EACH_ROUND = 2


class PacedFuture(asyncio.Future[T]):
    """A future whose `cancel` takes effect a little later where many are cancelled; it has no result then."""

    _line: "_Line | None" = None
    """Where it waits to be cancelled."""

    @property
    def wanted(self) -> bool:
        """Whether its result is still waited for."""
        return self._line is None and not self.done()

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 - asyncio's own signature
        """Have it cancelled in a later round of the event loop; return whether it will be."""
        if self.done():
            return False
        if self._line is None:
            self._line = _line_of(self.get_loop())
            self._line.add(self)
        return True

    def set_result(self, result: T) -> None:
        """Set the result, unless it is being cancelled: whoever has cancelled a task relies on that."""
        if self._line is None:
            super().set_result(result)

    def cancel_now(self) -> None:
        """Have it cancelled in this round."""
        super().cancel()


class _Line:
    """The futures of one event loop that wait to be cancelled."""

    def __init__(self) -> None:
        self._futures: deque[PacedFuture[Any]] = deque()

    def add(self, future: PacedFuture[Any]) -> None:
        self._futures.append(future)
        if len(self._futures) == 1:
            future.get_loop().call_soon(self._cancel_some)

    def _cancel_some(self) -> None:
        if not self._futures:
            return
        loop = self._futures[0].get_loop()
        try:
            for _ in range(min(_IN_EACH_ROUND, len(self._futures))):
                self._futures.popleft().cancel_now()
        finally:
            if self._futures:
                loop.call_soon(self._cancel_some)

    def finish(self) -> bool:
        is_waiting = bool(self._futures)
        while self._futures:
            self._futures.popleft().cancel_now()
        return is_waiting


_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()


def finish_cancelling() -> bool:
    """Cancel at once what waits to be cancelled in the running loop, at whose end nobody else waits; return whether
    anything did.
    """
    return _line_of(asyncio.get_running_loop()).finish()


def _line_of(loop: asyncio.AbstractEventLoop) -> _Line:
    line = _lines.get(loop)
    if line is None:
        line = _lines[loop] = _Line()
    return line
