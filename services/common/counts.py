"""Counts that are there from the start of a process."""

import itertools
from collections.abc import Iterable

from prometheus_client import Counter


def from_the_start(counter: Counter, *values: Iterable[str]) -> Counter:
    """Return a counter that has every combination of some values of its labels, given in the labels' order.

    Without that, a series begins with its first count, and no rate sees it.
    """
    for combination in itertools.product(*values):
        counter.labels(*combination)
    return counter
