"""Scopes of unified records, and the figures about them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ScopeInfo:
    """The figures of a scope and all below it."""

    path: str
    record_count: int = 0
    categories: Sequence[str] = ()
    oldest: datetime | None = None
    newest: datetime | None = None
    child_scopes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ScopeRow:
    """What the records of one exact scope and one set of categories add up to."""

    scope: str
    categories: Sequence[str]
    record_count: int
    oldest: datetime
    newest: datetime


def normalise_scope(path: str) -> str:
    """Return a scope as it is stored: one leading slash, none at the end, none doubled."""
    return "/" + "/".join(part for part in path.split("/") if part)


def within_scope(scope: str, prefix: str) -> bool:
    """Return whether a scope is `prefix` or below it; both normalised, an empty prefix holds everything."""
    return prefix in ("", "/") or scope == prefix or scope.startswith(prefix + "/")


def summarise_scope(path: str, rows: Iterable[ScopeRow]) -> ScopeInfo:
    """Add up the rows at and below `path`."""
    count, categories, children = 0, set[str](), set[str]()
    oldest: datetime | None = None
    newest: datetime | None = None
    below = "/" if path == "/" else path + "/"
    for row in rows:
        if not within_scope(row.scope, path):
            continue
        count += row.record_count
        categories.update(row.categories)
        oldest = row.oldest if oldest is None else min(oldest, row.oldest)
        newest = row.newest if newest is None else max(newest, row.newest)
        if row.scope != path:
            children.add(below + row.scope[len(below) :].split("/", 1)[0])
    return ScopeInfo(path, count, sorted(categories), oldest, newest, sorted(children))


def summarise_children(parent: str, rows: Iterable[ScopeRow]) -> list[ScopeInfo]:
    """Add up the rows of each scope directly below `parent`, by path."""
    below = "/" if parent == "/" else parent + "/"
    children: defaultdict[str, list[ScopeRow]] = defaultdict(list)
    for row in rows:
        if row.scope != parent and within_scope(row.scope, parent):
            children[below + row.scope[len(below) :].split("/", 1)[0]].append(row)
    return [summarise_scope(path, children[path]) for path in sorted(children)]


def count_categories(rows: Iterable[ScopeRow]) -> Mapping[str, int]:
    """Return how many records of some scopes have each category."""
    counts: Counter[str] = Counter()
    for row in rows:
        for category in set(row.categories):
            counts[category] += row.record_count
    return counts
