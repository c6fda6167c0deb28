"""Queries for sums of what groups have used, and their pages."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from services.common.errors import InvalidArgument
from services.common.paging import Page, Pager

_BY_LABEL = "label"
_DEFAULT_ROWS = 1000
_MOST_ROWS = 5000

G = TypeVar("G", bound=StrEnum)
S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class SumQuery(Generic[G]):
    """Which calls to sum, and by what; None and empty mean all. What more there is to choose by, subclasses add."""

    group_by: tuple[G, ...]
    start: datetime | None = None
    end: datetime | None = None
    """Calls at this time are not among them."""
    label_key: str = ""
    """The key of the label to sum by."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the labels of the calls have to be."""


async def page_of_sums(
    listing: str,
    query: SumQuery[G],
    size: int,
    token: str,
    read: Callable[[list[Any] | None, int], Awaitable[Sequence[S]]],
    keys: Callable[[S], Sequence[str]],
) -> Page[S]:
    """Return a page of the sums of a query: `read` returns those after some keys, and `keys` gives those of a sum.

    Raises:
        InvalidArgument: the span ends before it begins, no label is named to sum by, or the token is not one of
            this query.
    """
    if query.start is not None and query.end is not None and query.end < query.start:
        raise InvalidArgument.field("end_time", "must not be before start_time")
    if _BY_LABEL in query.group_by and not query.label_key:
        raise InvalidArgument.field("label_key", "name the label whose values are to be summed by")
    pager = Pager(listing, key_types=(str,) * len(query.group_by), default=_DEFAULT_ROWS, maximum=_MOST_ROWS)
    filters = {each.name: str(getattr(query, each.name)) for each in fields(query)}
    filters["labels"] = str(sorted(query.labels.items()))
    return await pager.page(size, token, filters, read, keys)
