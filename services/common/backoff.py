"""Pauses between attempts: growing, bounded, and never the same for everybody."""

import math
import random


class Backoff:
    """Multiplies the pause by `factor` with each attempt, up to `longest`, and takes a random part of it off."""

    def __init__(self, base: float, longest: float, *, factor: float = 2.0, jitter: float = 0.5) -> None:
        """`base` and `longest` are in seconds; `jitter` is the largest share of a pause, 0 to 1, that is taken off."""
        self._base = base
        self._longest = longest
        self._factor = factor
        self._jitter = jitter

    def pause(self, attempt: int, at_least: float = 0.0) -> float:
        """Return the seconds to wait after the failure of attempt number `attempt`, the first being 1.

        `at_least` is the pause that the other side requires. Callers that got the same one come back spread out.
        """
        try:
            growth = self._base * self._factor ** (max(attempt, 1) - 1)
        except OverflowError:
            growth = math.inf if self._base else 0.0
        pause = min(self._longest, growth)
        chance = self._jitter * pause * random.random()  # noqa: S311 - nothing to guess here
        return pause - chance if pause - chance >= at_least else at_least + chance
