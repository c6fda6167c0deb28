"""What decides how endpoints and indexes have to be queried, remembered for a while."""

from dataclasses import dataclass

from cachetools import TTLCache

from services.common.errors import PermissionDenied
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.descriptions import STORAGE_OPTIMIZED
from services.memory.stores.databricks.upstream_errors import IndexMissing

_REMEMBERED_SECONDS = 300.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Location:
    """A workspace and the endpoint in it."""

    workspace_url: str
    endpoint: str


class EndpointTypes:
    """Remembers for a while what decides how endpoints and indexes have to be queried; both may be created again."""

    def __init__(self) -> None:
        self._types: TTLCache[Location, bool] = TTLCache(_REMEMBERED, _REMEMBERED_SECONDS)
        self._dimensions: TTLCache[tuple[str, str], int] = TTLCache(_REMEMBERED, _REMEMBERED_SECONDS)

    async def storage_optimized(self, location: Location, client: VectorSearchClient) -> bool | None:
        """Return whether an endpoint takes the string language; None where the credential may not read it."""
        known = self._types.get(location)
        if known is not None:
            return known
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
        self._types[location] = storage_optimized

    def forget(self, location: Location) -> None:
        """Ask for the type of an endpoint again the next time."""
        self._types.pop(location, None)

    def dimension(self, index: tuple[str, str]) -> int | None:
        """Return the length of an index's vectors, where it is remembered; an index is a workspace and a name."""
        return self._dimensions.get(index)

    def learn_dimension(self, index: tuple[str, str], dimension: int) -> None:
        """Remember the length of an index's vectors."""
        self._dimensions[index] = dimension

    def forget_dimension(self, index: tuple[str, str]) -> None:
        """Ask for the length of an index's vectors again the next time."""
        self._dimensions.pop(index, None)
