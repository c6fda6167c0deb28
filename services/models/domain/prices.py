"""What a model's tokens cost."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.models.domain.usage import Usage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for a million tokens; None is unknown, 0 is free."""

    input: float | None = None
    output: float | None = None
    """Reasoning included."""
    cached_input: float | None = None
    """Tokens of the prompt that the upstream reads from its cache; None is the price of other input."""
    cache_write: float | None = None
    """Tokens of the prompt that the upstream writes into its cache; None is the price of other input."""

    @property
    def known(self) -> bool:
        """Whether `cost` is what a call costs, rather than the part of it that is known."""
        return self.input is not None and self.output is not None

    def cost(self, usage: Usage) -> float:
        """Return US dollars for the tokens of a call; it is finite, and those without a known price count as free."""
        given = self.input or 0.0
        cached_input = given if self.cached_input is None else self.cached_input
        cache_write = given if self.cache_write is None else self.cache_write
        cached, written = usage.cached_input_tokens, usage.cache_write_input_tokens
        other = max(0, usage.input_tokens - cached - written)
        cost = (
            other * given + cached * cached_input + written * cache_write + usage.output_tokens * (self.output or 0.0)
        ) / _MILLION
        return cost if math.isfinite(cost) else 0.0


def dearest(of: Sequence[Prices]) -> Prices:
    """Return what tokens cost at most at one of several prices; unknown where one of them is."""

    def most(values: Iterable[float | None]) -> float | None:
        found: list[float] = []
        for value in values:
            if value is None:
                return None
            found.append(value)
        return max(found)

    if len(of) == 1:
        return of[0]
    return Prices(
        input=most(price.input for price in of),
        output=most(price.output for price in of),
        cached_input=most(price.input if price.cached_input is None else price.cached_input for price in of),
        cache_write=most(price.input if price.cache_write is None else price.cache_write for price in of),
    )


FREE = Prices(input=0.0, output=0.0, cached_input=0.0, cache_write=0.0)
"""Prices of what nobody charges for."""
