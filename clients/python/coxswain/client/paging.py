"""Listings as one sequence over all pages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coxswain.client.errors import ResourceExhausted


def pages(method: Callable[[Any], Any], request: Any, field: str, limit: int | None = None) -> Iterator[Any]:
    """The elements of ``field`` of every page of a listing, at most ``limit``.

    Example: ``pages(client.crews.ListCrews, ListCrewsRequest(), "crews")``. The request is modified. A page too
    large for a message is requested again with half the size.
    """
    # The help of commands that list needs no gRPC.
    from coxswain.client.errors import ResourceExhausted

    listing = _Listing(request, field, limit)
    while not listing.finished:
        try:
            response = method(request)
        except ResourceExhausted as error:
            listing.halve(error)
        else:
            yield from listing.elements(response)


async def apages(
    method: Callable[[Any], Awaitable[Any]], request: Any, field: str, limit: int | None = None
) -> AsyncIterator[Any]:
    """As ``pages``, for AsyncClient."""
    # The help of commands that list needs no gRPC.
    from coxswain.client.errors import ResourceExhausted

    listing = _Listing(request, field, limit)
    while not listing.finished:
        try:
            response = await method(request)
        except ResourceExhausted as error:
            listing.halve(error)
        else:
            for element in listing.elements(response):
                yield element


class _Listing:
    """The position in a listing."""

    def __init__(self, request: Any, field: str, limit: int | None) -> None:
        self.finished = limit == 0
        self._request = request
        self._field = field
        self._left = limit

    def halve(self, error: "ResourceExhausted") -> None:
        """Halve the page size. Raises the error when it is no matter of size, or the size is 1."""
        # 50 is what every listing means by 0.
        size = self._request.page_size or 50
        # Without a reason: gRPC itself has refused the message.
        if error.reason not in ("", "RESPONSE_TOO_LARGE") or size == 1:
            raise error
        self._request.page_size = size // 2

    def elements(self, response: Any) -> list[Any]:
        """The elements of a page up to the limit; the request becomes that of the next page."""
        found = list(getattr(response, self._field))
        if self._left is not None:
            found = found[: self._left]
            self._left -= len(found)
        self._request.page_token = response.next_page_token
        self.finished = not response.next_page_token or self._left == 0
        return found
