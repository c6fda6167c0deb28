"""Listings come whole and in order, whatever their pages."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.client import NotFound, ResourceExhausted
from coxswain.client.paging import apages, pages
from coxswain.orchestrator.v1.crew_pb2 import Crew, ListCrewsRequest, ListCrewsResponse


class Listing:
    """Crews in pages; a page of more than ``fits`` crews is too large for a message."""

    def __init__(self, count: int, fits: int = 1000) -> None:
        self._count = count
        self._fits = fits
        self.sizes: list[int] = []

    def list(self, request: ListCrewsRequest) -> ListCrewsResponse:
        size = request.page_size or 50
        self.sizes.append(size)
        start = int(request.page_token or 0)
        end = min(start + size, self._count)
        if end - start > self._fits:
            # Refused by the server, or by gRPC on the way.
            raise ResourceExhausted("too large", reason="RESPONSE_TOO_LARGE" if size % 2 else "")
        crews = [Crew(id=str(number)) for number in range(start, end)]
        return ListCrewsResponse(crews=crews, next_page_token=str(end) if end < self._count else "")

    async def alist(self, request: ListCrewsRequest) -> ListCrewsResponse:
        return self.list(request)


@settings(deadline=None)
@given(
    count=st.integers(0, 300),
    size=st.integers(0, 70),
    limit=st.none() | st.integers(0, 320),
    fits=st.integers(1, 60),
)
async def test_every_element_comes_once_and_in_order_up_to_the_limit(
    count: int, size: int, limit: int | None, fits: int
) -> None:
    wanted = [str(number) for number in range(count)][:limit]
    blocking = pages(Listing(count, fits).list, ListCrewsRequest(page_size=size), "crews", limit)
    assert [crew.id for crew in blocking] == wanted
    following = apages(Listing(count, fits).alist, ListCrewsRequest(page_size=size), "crews", limit)
    assert [crew.id async for crew in following] == wanted


def test_no_page_is_asked_for_behind_the_limit() -> None:
    listing = Listing(100)
    assert len(list(pages(listing.list, ListCrewsRequest(page_size=10), "crews", 20))) == 20
    assert listing.sizes == [10, 10]


def test_one_element_that_fits_no_message_is_an_error() -> None:
    with pytest.raises(ResourceExhausted):
        list(pages(Listing(3, fits=0).list, ListCrewsRequest(page_size=4), "crews"))


@pytest.mark.parametrize("error", [NotFound("gone"), ResourceExhausted("slow down", reason="QUOTA_EXCEEDED")])
def test_other_errors_are_raised(error: Exception) -> None:
    def fail(_: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        list(pages(fail, ListCrewsRequest(), "crews"))
