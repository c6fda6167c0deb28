"""Leaves alone what has failed again and again, so that calls fail at once instead of one by one."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# A state is some 500 bytes; the least recently used one is forgotten, which closes its circuit.
_SIZE = 10_000
_CAUSE_CHARACTERS = 300


@dataclass(slots=True)
class _State:
    outages: int = 0
    """In a row."""
    last_outage: float = 0.0
    cause: str = ""
    """The message of the last outage."""
    openings: int = 0
    """Since the last success."""
    open_until: float | None = None
    """None while calls may be sent."""
    opened_at: float = 0.0
    pause: float = 0.0
    """The latest one, in seconds."""
    next_probe_at: float = 0.0
    """A probe may take long: after another pause, the next attempt is one too."""


class Trial(Generic[K]):
    """One attempt at what may fail. Exactly one of its methods says how it ended; more calls of them do nothing."""

    def __init__(self, breaker: "CircuitBreaker[K]", key: K, began: float, *, is_probe: bool) -> None:
        self._breaker = breaker
        self.key = key
        self.began = began
        self.is_probe = is_probe
        self._ended = False

    def succeeded(self) -> None:
        """It answered, whatever it said."""
        if self._end():
            self._breaker.succeeded(self)

    def failed(self, cause: str = "") -> None:
        """It had an outage; `cause` is its message, for the callers who are refused because of it."""
        if self._end():
            self._breaker.failed(self, cause)

    def gave_up(self) -> None:
        """The attempt ended without telling anything of it."""
        if self._end():
            self._breaker.gave_up(self)

    def _end(self) -> bool:
        first, self._ended = not self._ended, True
        return first


class CircuitBreaker(Generic[K]):
    """Counts the outages of each key in a row.

    After `threshold` of them nothing is to be sent for a time that doubles from `pause` to `longest` seconds. Then one
    attempt tries whether it answers again, and another one when it takes longer than that time. Attempts that
    overlap fail together when a connection is lost, so those that began before the last outage count as a part of it.
    """

    def __init__(
        self,
        *,
        threshold: int,
        pause: float,
        longest: float,
        clock: Callable[[], float] = time.monotonic,
        on_open: Callable[[K, float, bool], object] = lambda _key, _pause, _first: None,
        on_close: Callable[[K, bool], object] = lambda _key, _forgotten: None,
    ) -> None:
        """With a `threshold` of 0 nothing is ever left alone.

        `on_open` is told the key, the pause in seconds and whether the circuit was closed before; `on_close` the key
        and whether it was only forgotten.
        """
        self._threshold = threshold
        self._pause = pause
        self._longest = longest
        self._clock = clock
        self._on_open = on_open
        self._on_close = on_close
        self._states: OrderedDict[K, _State] = OrderedDict()

    def refusal(self, key: K) -> float:
        """Return for how many seconds nothing is to be sent; 0 means that an attempt may begin."""
        state = self._states.get(key)
        if state is None or state.open_until is None:
            return 0.0
        return max(0.0, max(state.open_until, state.next_probe_at) - self._clock())

    def cause(self, key: K) -> str:
        """Return the message of its last outage; empty when there is none."""
        state = self._states.get(key)
        return "" if state is None else state.cause

    def begin(self, key: K) -> Trial[K]:
        """Begin an attempt that `refusal` does not speak against."""
        state = self._states.get(key)
        now = self._clock()
        is_probe = False
        if state is not None and state.open_until is not None and now >= max(state.open_until, state.next_probe_at):
            is_probe = True
            state.next_probe_at = now + state.pause
        return Trial(self, key, now, is_probe=is_probe)

    def succeeded(self, trial: Trial[K]) -> None:
        """See `Trial`."""
        state = self._states.get(trial.key)
        # What began before the opening says nothing about the time since.
        if state is None or (state.open_until is not None and not trial.is_probe):
            return
        del self._states[trial.key]
        if state.open_until is not None:
            self._on_close(trial.key, False)

    def failed(self, trial: Trial[K], cause: str) -> None:
        """See `Trial`."""
        if not self._threshold:
            return
        state = self._states.setdefault(trial.key, _State())
        state.cause = cause[:_CAUSE_CHARACTERS]
        self._states.move_to_end(trial.key)
        if trial.is_probe:
            # Another probe may have opened it anew, or closed it.
            if state.open_until is not None and trial.began >= state.opened_at:
                self._open(trial.key, state)
        elif state.open_until is None and (not state.outages or trial.began >= state.last_outage):
            state.outages += 1
            state.last_outage = self._clock()
            if state.outages >= self._threshold:
                self._open(trial.key, state)
        if len(self._states) > _SIZE:
            key, forgotten = self._states.popitem(last=False)
            if forgotten.open_until is not None:
                self._on_close(key, True)

    def gave_up(self, trial: Trial[K]) -> None:
        """See `Trial`; another attempt may probe."""
        state = self._states.get(trial.key)
        if state is not None and trial.is_probe:
            state.next_probe_at = 0.0

    def _open(self, key: K, state: _State) -> None:
        was_closed = state.open_until is None
        pause = min(self._longest, self._pause * 2.0 ** min(state.openings, 60))
        state.openings += 1
        state.pause = pause
        state.opened_at = self._clock()
        state.open_until = state.opened_at + pause
        state.next_probe_at = 0.0
        self._on_open(key, pause, was_closed)
