"""What decides how endpoints and indexes have to be asked, remembered for a while."""

import time
from dataclasses import dataclass
from typing import TypeVar

from services.common.errors import PermissionDenied
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.descriptions import STORAGE_OPTIMIZED
from services.memory.stores.databricks.upstream_errors import IndexMissing

_REMEMBERED_SECONDS = 300.0
_REMEMBERED = 10_000

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Location:
    """A workspace and the endpoint in it."""

    workspace_url: str
    endpoint: str


class EndpointTypes:
    """Remembers for a while what decides how endpoints and indexes have to be asked; both may be made anew."""

    def __init__(self) -> None:
        self._types: dict[Location, tuple[float, bool]] = {}
        self._dimensions: dict[tuple[str, str], tuple[float, int]] = {}

    async def storage_optimized(self, location: Location, client: VectorSearchClient) -> bool | None:
        """Tell whether an endpoint takes the string language; None where the credential may not look at it."""
        known = self._types.get(location)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        try:
            answer = await client.get_endpoint(location.workspace_url, location.endpoint)
        except (PermissionDenied, IndexMissing):
            # Tokens may be good for indexes alone: not remembered, as others may see more.
            return None
        storage_optimized = answer.get("endpoint_type") == STORAGE_OPTIMIZED
        self.learn(location, storage_optimized=storage_optimized)
        return storage_optimized

    def learn(self, location: Location, *, storage_optimized: bool) -> None:
        """Remember the type of an endpoint."""
        _bounded(self._types)[location] = (time.monotonic() + _REMEMBERED_SECONDS, storage_optimized)

    def forget(self, location: Location) -> None:
        """Ask for the type of an endpoint again the next time."""
        self._types.pop(location, None)

    def dimension(self, index: tuple[str, str]) -> int | None:
        """Return the length of an index's vectors, where it is remembered; an index is a workspace and a name."""
        known = self._dimensions.get(index)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def learn_dimension(self, index: tuple[str, str], dimension: int) -> None:
        """Remember the length of an index's vectors."""
        _bounded(self._dimensions)[index] = (time.monotonic() + _REMEMBERED_SECONDS, dimension)

    def forget_dimension(self, index: tuple[str, str]) -> None:
        """Ask for the length of an index's vectors again the next time."""
        self._dimensions.pop(index, None)


def _bounded(known: dict[_Key, _Value]) -> dict[_Key, _Value]:
    if len(known) >= _REMEMBERED:
        known.clear()
    return known
