"""What can be seen of a running call, for all who follow it."""

import asyncio
import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.common.errors import CoxswainError
from services.orchestrator.domain.tool_outcome import Outcome
from services.orchestrator.tool_gateway.ports import SourceQuestion

_BETWEEN_SIGNS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Sign:
    """The call goes on."""

    text: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The source asks a person."""

    number: int
    question: SourceQuestion


@dataclass(frozen=True, slots=True)
class Ended:
    """The call has an outcome."""

    outcome: Outcome
    replayed: bool
    """Whether the outcome was there before the call was asked for."""


CallEvent = Sign | Asked | Ended


class CallBoard:
    """Keeps the newest sign, the open question and the end of a call; followers see those, and nothing in between."""

    def __init__(self) -> None:
        self._sign: Sign | None = None
        self._signs = 0
        self._asked: Asked | None = None
        self.last_number = 0
        """Of the questions so far: followers take one whose number is not greater for one that they know."""
        self._end: Ended | CoxswainError | None = None
        self._changed = asyncio.Event()

    def show(self, sign: Sign) -> None:
        """Show that the call goes on."""
        self._sign = sign
        self._signs += 1
        self._notify()

    def ask(self, asked: Asked | None) -> None:
        """Show a question, or that there is none any more."""
        if asked != self._asked:
            self._asked = asked
            if asked is not None:
                self.last_number = max(self.last_number, asked.number)
            self._notify()

    def end(self, end: Ended | CoxswainError) -> None:
        """Show the end: an outcome, or why this process cannot tell one."""
        if self._end is None:
            self._end = end
            self._notify()

    async def wait_end(self) -> Ended:
        """Return the end.

        Raises:
            CoxswainError: this process cannot tell the outcome.
        """
        while self._end is None:
            await self._changed.wait()
        return _ended(self._end)

    async def events(self) -> AsyncIterator[CallEvent]:
        """Yield what happens, from what is now to the end; of many signs a few in a second, the last one always.

        Raises:
            CoxswainError: this process cannot tell the outcome.
        """
        clock = asyncio.get_running_loop().time
        signs, asked, next_sign_at = 0, 0, 0.0
        while True:
            changed, end = self._changed, self._end
            is_due = signs < self._signs and (clock() >= next_sign_at or end is not None)
            if is_due and self._sign is not None:
                signs, next_sign_at = self._signs, clock() + _BETWEEN_SIGNS_SECONDS
                yield self._sign
            if self._asked is not None and self._asked.number > asked:
                asked = self._asked.number
                yield self._asked
            if end is not None:
                yield _ended(end)
                return
            pause = max(0.0, next_sign_at - clock()) if signs < self._signs else None
            try:
                async with asyncio.timeout(pause):
                    await changed.wait()
            except TimeoutError:
                continue

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _ended(end: Ended | CoxswainError) -> Ended:
    if isinstance(end, CoxswainError):
        # One exception raised for several followers would collect the traceback of each.
        raise copy.copy(end)
    return end
