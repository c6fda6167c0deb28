"""Turns of a group's calls at a process: it works on few of them at once, and the rest wait in the group's line."""

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from services.common.paced_cancel import PacedFuture

# In parts of the processor time that a turn used: as long a pause left other groups' calls at 2.4 times their quiet
# time.
_PAUSE_FOR_OTHERS = 2.0
# Others count for so long after their last call: who calls again and again finds the same as those who never stop.
_OTHERS_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class _Turn:
    """What one call holds while it is worked on."""

    line: "_Line"
    began: float
    processor_began: float | None
    """What the process had used by then; not measured where nobody else of the group waited."""

    def end(self) -> None:
        """Hand the turn on, if that has not been done; the call may go on without it."""
        self.line.end(self)


_turn: ContextVar[_Turn | None] = ContextVar("coxswain_turn", default=None)


def wait_without_turn() -> None:
    """Hand on the turn of the call that is served, if it has one: it waits for something that keeps this process idle.

    For what may take long, such as an answer from outside or the next event.
    """
    turn = _turn.get()
    if turn is not None:
        turn.end()


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Line:
    """The turns of one group. While anybody waits, a turn is held and a timer runs for its end, or there is a pause."""

    most: Callable[[], int]
    longest_seconds: float
    others_work: Callable[[], bool]
    turns: dict[_Turn, None] = field(default_factory=dict)
    """Those that are held, in the order in which they began."""
    pauses: int = 0
    waiting: OrderedDict[PacedFuture[_Turn], None] = field(default_factory=OrderedDict)
    timer: asyncio.TimerHandle | None = None
    ends: float = 0.0
    """When the timer is due; the timer itself does not say so once that is over."""

    def take_at_once(self) -> _Turn | None:
        """Return a turn, which has to be ended, where nobody has to wait for it."""
        return self._begin(None) if not self.waiting and self._has_room() else None

    async def wait_for_turn(self) -> _Turn:
        """Return a turn, once there is one; it has to be ended."""
        coming = PacedFuture[_Turn](loop=asyncio.get_running_loop())
        self.waiting[coming] = None
        self._watch()
        try:
            return await coming
        except BaseException:
            if coming in self.waiting:
                del self.waiting[coming]
            elif coming.done() and not coming.cancelled():
                # It came, and nobody takes it any more.
                coming.result().end()
            raise

    def end(self, turn: _Turn) -> None:
        if turn not in self.turns:
            return
        del self.turns[turn]
        if turn.processor_began is not None and self.waiting and self.others_work():
            pause = _PAUSE_FOR_OTHERS * (time.process_time() - turn.processor_began)
            self.pauses += 1
            asyncio.get_running_loop().call_later(min(pause, self.longest_seconds), self._end_pause)
        else:
            self._hand_on()

    def _has_room(self) -> bool:
        return len(self.turns) + self.pauses < self.most()

    def _begin(self, processor_time: float | None) -> _Turn:
        turn = _Turn(self, asyncio.get_running_loop().time(), processor_time)
        self.turns[turn] = None
        return turn

    def _hand_on(self) -> None:
        """Let those begin who can, in the order of their coming."""
        while self.waiting and self._has_room():
            coming, _ = self.waiting.popitem(last=False)
            if coming.wanted:
                coming.set_result(self._begin(time.process_time()))
        self._watch()

    def _end_pause(self) -> None:
        self.pauses -= 1
        self._hand_on()

    def _watch(self) -> None:
        """End turns that take too long, while anybody waits for one."""
        if self.timer is None and self.turns and self.waiting:
            self.ends = next(iter(self.turns)).began + self.longest_seconds
            self.timer = asyncio.get_running_loop().call_at(self.ends, self._end_long)

    def _end_long(self) -> None:
        # Timers come a little before their time, too.
        now = max(asyncio.get_running_loop().time(), self.ends)
        self.timer = None
        for turn in [turn for turn in self.turns if turn.began + self.longest_seconds <= now]:
            self.end(turn)
        self._watch()


class _HeldTurn(contextlib.AbstractAsyncContextManager[bool]):
    """A turn of a line while its context lasts; entering says whether it had to be waited for."""

    __slots__ = ("_before", "_line", "_turn")

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._turn: _Turn
        self._before: Token[_Turn | None]

    async def __aenter__(self) -> bool:
        at_once = self._line.take_at_once()
        self._turn = at_once or await self._line.wait_for_turn()
        self._before = _turn.set(self._turn)
        return at_once is None

    async def __aexit__(self, *_raised: object) -> None:
        _turn.reset(self._before)
        self._turn.end()


class _LatestGroups:
    """When groups have done something last: the latest one, and the latest other one."""

    def __init__(self) -> None:
        self._latest = "", -math.inf
        self._latest_other = "", -math.inf

    def note(self, group_id: str) -> None:
        if self._latest[0] != group_id:
            self._latest_other = self._latest
        self._latest = group_id, asyncio.get_running_loop().time()

    def has_others(self, group_id: str) -> bool:
        """Return whether another group has done it within a second."""
        latest = self._latest_other if self._latest[0] == group_id else self._latest
        return asyncio.get_running_loop().time() - latest[1] < _OTHERS_SECONDS


class GroupLines:
    """A number of turns for each group: the calls of a group that find none wait in a line of their own.

    While anybody waits, a call that takes longer than `longest_seconds` goes on without its turn: it waits for
    something, which keeps nobody busy. While others work, a turn that others of the group wait for is handed on after
    a pause of twice the processor time that the process used in it, at most of `longest_seconds`.
    """

    def __init__(self, turns: int, *, alone: int) -> None:
        """A group has `turns`, or as many as `alone` when no other group has called within a second, nor has a stream
        of another begun or responded.
        """
        self._turns = turns
        self._alone = alone
        self._lines: WeakValueDictionary[tuple[str, bool], _Line] = WeakValueDictionary()
        self._callers = _LatestGroups()
        self._streaming = _LatestGroups()

    def note_stream(self, group_id: str) -> None:
        """Note that a stream of a group has begun or responds: for a second the group counts among others who work."""
        self._streaming.note(group_id)

    def turn(
        self, group_id: str, longest_seconds: float, others_work: Callable[[], bool], *, heavy: bool = False
    ) -> contextlib.AbstractAsyncContextManager[bool]:
        """Hold a turn of a group, once there is one, and say whether it had to be waited for.

        `others_work` says whether calls of other groups are under way; see `note_stream` for streams.

        `heavy` calls have turns and a line of their own, in which the group's others do not wait; they are not more at
        once when the group is alone.
        """
        self._callers.note(group_id)
        key = group_id, heavy
        line = self._lines.get(key)
        if line is None:

            def most() -> int:
                return self._turns if heavy or self._has_others(group_id) else self._alone

            def others() -> bool:
                return others_work() or self._streaming.has_others(group_id)

            line = self._lines[key] = _Line(most, longest_seconds, others)
        return _HeldTurn(line)

    def _has_others(self, group_id: str) -> bool:
        return self._callers.has_others(group_id) or self._streaming.has_others(group_id)
