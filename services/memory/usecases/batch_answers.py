"""Answers of a batch of searches, and how much of each fits into the one message that they share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.searches import Found
from services.memory.usecases.merged_search import Problem

_RESULT_BYTES = 64
"""What a result takes in a message beside its record and the names of its namespace, crew and model, at most."""
_PROBLEM_BYTES = 128
_NAMESPACE_BYTES = 16
"""What they take in a message beside their texts."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A result and what its namespace is."""

    found: Found
    namespace: NamespaceInfo
    most_bytes: int
    """The bytes it takes in a message, at most."""

    @classmethod
    def of(cls, found: Found, namespace: NamespaceInfo) -> Self:
        """Return a result of a namespace."""
        names = (namespace.key.memory_id, namespace.crew_name, namespace.space.model)
        size = found.record.most_bytes + sum(len(name.encode()) for name in names) + _RESULT_BYTES
        return cls(found, namespace, size)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one search found."""

    results: Sequence[Placed] = ()
    by_rank: bool = False
    """Whether the results' order is that of their ranks in several orders; else it is that of their scores."""
    problems: Mapping[Problem, Sequence[NamespaceKey]] = field(default_factory=dict)
    """By reason and text, the namespaces that were not searched."""
    next_token: str = ""
    """Where the group's namespaces go on."""
    cut: bool = False
    truncated: bool = False
    scanned: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Fitting:
    """The first of some results, as many as fit."""

    results: Sequence[Placed]
    cut: bool
    """Whether there were more."""

    @classmethod
    def of(cls, results: Iterable[Placed], max_bytes: int, *, first: int | None = None) -> Self:
        """Return those that take so many bytes; the first one alone may take as many as `first` says."""
        taken, used = list[Placed](), 0
        for placed in results:
            if used + placed.most_bytes > (max_bytes if taken or first is None else first):
                return cls(taken, cut=True)
            used += placed.most_bytes
            taken.append(placed)
        return cls(taken, cut=False)


def in_turn(found: Sequence[Fitting]) -> Iterator[Placed]:
    """Yield the first of each, then the second of each, up to what one of them was cut at.

    It is what reciprocal ranks come to, as no record is in two of them.
    """
    for rank in range(max((len(some.results) + some.cut for some in found), default=0)):
        for some in found:
            if rank < len(some.results):
                yield some.results[rank]
            elif some.cut:
                return


def within_message(answers: Sequence[Answer], max_bytes: int) -> Sequence[Answer]:
    """Leave out what does not fit in a message: each answer may use its share, and what those before it left."""
    left = max_bytes - sum(map(_problem_bytes, answers))
    within: list[Answer] = []
    for position, answer in enumerate(answers):
        # A long record must be found by somebody: alone it may take all there is.
        fitting = Fitting.of(answer.results, left // (len(answers) - position), first=left)
        left -= sum(placed.most_bytes for placed in fitting.results)
        within.append(replace(answer, results=fitting.results, cut=answer.cut or fitting.cut))
    return within


def _problem_bytes(answer: Answer) -> int:
    """Return what an answer takes in a message beside its results, at most."""
    keys = [key for keys in answer.problems.values() for key in keys]
    names = sum(len(key.memory_id.encode()) + _NAMESPACE_BYTES for key in keys)
    return (
        names + sum(len(message.encode()) + _PROBLEM_BYTES for _, message in answer.problems) + len(answer.next_token)
    )
