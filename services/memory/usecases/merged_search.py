"""Many namespaces of one embedding space searched as one: each is asked for its best, of which the best are kept."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Any, Final, TypeAlias

from services.common.errors import CoxswainError
from services.memory.domain.filters import Filter
from services.memory.domain.listings import BYTES_AT_ONCE
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import Found, Query, SearchOutcome, WordQuery
from services.memory.stores.base import MemoryStore, SearchesSeveral
from services.memory.usecases.record_pages import fitting

_OF_NAMESPACES: Final = frozenset({"FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"})
"""Failures that a namespace has for itself; others, like a workspace that does not answer, may pass."""

Problem: TypeAlias = tuple[str, str]
"""The reason and the text of a failure."""


@dataclass(slots=True)
class Problems:
    """Which namespaces could not be searched, by what kept them from it."""

    keys: dict[Problem, dict[NamespaceKey, None]] = field(default_factory=dict)

    def note(self, keys: Sequence[NamespaceKey], error: CoxswainError) -> None:
        """Note the failure of namespaces.

        Raises:
            CoxswainError: it is not theirs, but fails everything.
        """
        if error.code not in _OF_NAMESPACES:
            raise error
        self.add(keys, error.reason, error.message)

    def add(self, keys: Sequence[NamespaceKey], reason: str, message: str) -> None:
        """Note what keeps namespaces from being searched."""
        self.keys.setdefault((reason, message), {}).update(dict.fromkeys(keys))


@dataclass(frozen=True, slots=True)
class Part:
    """Namespaces that are asked together, all of one kind."""

    place: int
    keys: Sequence[NamespaceKey]


_Find: TypeAlias = Callable[[Part], Awaitable[SearchOutcome]]


@dataclass(frozen=True, slots=True)
class SeveralNamespaces:
    """Namespaces of one store and one embedding space; see `Searched`."""

    store: MemoryStore
    keys: Sequence[NamespaceKey]
    filters: Mapping[MemoryKind, Filter]
    """The filter as each of the kinds takes it."""
    now: datetime
    gate: asyncio.Semaphore
    """Bounds what is asked at the same time."""
    problems: Problems

    @property
    def words_are_comparable(self) -> bool:
        """Whether scores of words can be compared over all of the namespaces."""
        return not isinstance(self.store, SearchesSeveral) or len(self._parts()) < 2

    async def near(self, query: Query) -> SearchOutcome:
        """See `Searched`."""

        async def find(part: Part) -> SearchOutcome:
            asked = replace(query, filter=self.filters[part.keys[0].kind])
            if isinstance(self.store, SearchesSeveral):
                return await self.store.search_several(part.keys, asked, self.now)
            return await self.store.search(part.keys[0], asked, self.now)

        return await self._best(find, query.limit, by_score=True)

    async def worded(self, query: WordQuery) -> SearchOutcome:
        """See `Searched`."""

        async def find(part: Part) -> SearchOutcome:
            asked = replace(query, filter=self.filters[part.keys[0].kind])
            if isinstance(self.store, SearchesSeveral):
                return await self.store.search_words_several(part.keys, asked, self.now)
            return await self.store.search_words(part.keys[0], asked, self.now)

        return await self._best(find, query.limit, by_score=self.words_are_comparable)

    def _parts(self) -> Sequence[Part]:
        if not isinstance(self.store, SearchesSeveral):
            return [Part(place, [key]) for place, key in enumerate(self.keys)]
        by_kind = groupby(sorted(self.keys, key=_kind), key=_kind)
        return [Part(place, list(keys)) for place, (_, keys) in enumerate(by_kind)]

    async def _best(self, find: _Find, limit: int, *, by_score: bool) -> SearchOutcome:
        best = Best(limit, by_score=by_score)

        async def ask(part: Part) -> None:
            try:
                async with self.gate:
                    outcome = await find(part)
            except CoxswainError as error:
                if error.code == "INVALID_ARGUMENT" and len(part.keys) > 1:
                    # One of them cannot be written in the language of the store: the others can.
                    for key in part.keys:
                        await ask(Part(part.place, [key]))
                    return
                self.problems.note(part.keys, error)
                return
            best.add(part, outcome)

        await all_of([ask(part) for part in self._parts()])
        return best.outcome()


class Best:
    """The best results so far, the same in whatever order the namespaces answer."""

    def __init__(self, limit: int, *, by_score: bool) -> None:
        """Results are ordered by their scores, or else the first of each namespace comes before every second one."""
        self._limit = limit
        self._by_score = by_score
        self._ranked: list[tuple[float, int, int, Found]] = []
        self._sums = SearchOutcome()
        self._floor = float("-inf")

    def add(self, part: Part, outcome: SearchOutcome) -> None:
        """Take what some namespaces have answered."""
        sums = self._sums
        self._sums = replace(
            sums,
            scanned=sums.scanned + outcome.scanned,
            unreadable=sums.unreadable + outcome.unreadable,
            truncated=sums.truncated or outcome.truncated,
            cut=sums.cut or outcome.cut,
        )
        for position, found in enumerate(outcome.results):
            placed = found if found.key else replace(found, key=part.keys[0])
            self._ranked.append((-found.score if self._by_score else position, part.place, position, placed))
        if outcome.cut and outcome.results:
            # What was not read there may be better than what others have below this.
            self._floor = max(self._floor, outcome.results[-1].score)
        self._ranked.sort(key=lambda ranked: ranked[:3])
        del self._ranked[self._limit :]
        kept = fitting([found.record for *_, found in self._ranked], BYTES_AT_ONCE)
        if kept < len(self._ranked):
            del self._ranked[kept:]
            self._sums = replace(self._sums, cut=True)

    def outcome(self) -> SearchOutcome:
        """Return what was found in all of them."""
        certain = [found for *_, found in self._ranked if not self._by_score or found.score >= self._floor]
        return replace(self._sums, results=certain)


def _kind(key: NamespaceKey) -> str:
    return key.kind.name


async def all_of(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do several things at the same time; the first failure ends them all, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
