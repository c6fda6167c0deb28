"""Listings as one sequence, whatever their pages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

RequestT = TypeVar("RequestT")


def pages(method: Callable[[RequestT], Any], request: RequestT, field: str, limit: int | None = None) -> Iterator[Any]:
    """The elements of ``field`` of every page of a listing, at most ``limit``.

    Example: ``pages(client.crews.ListCrews, ListCrewsRequest(), "crews")``. The request is used up.
    """
    given = 0
    while True:
        response = method(request)
        for element in getattr(response, field):
            if limit is not None and given >= limit:
                return
            given += 1
            yield element
        if not response.next_page_token or given == limit:
            return
        request.page_token = response.next_page_token  # type: ignore[attr-defined]


async def apages(
    method: Callable[[RequestT], Awaitable[Any]], request: RequestT, field: str, limit: int | None = None
) -> AsyncIterator[Any]:
    """As ``pages``, for AsyncClient."""
    given = 0
    while True:
        response = await method(request)
        for element in getattr(response, field):
            if limit is not None and given >= limit:
                return
            given += 1
            yield element
        if not response.next_page_token or given == limit:
            return
        request.page_token = response.next_page_token  # type: ignore[attr-defined]
