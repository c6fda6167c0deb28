"""What decides how endpoints and indexes have to be queried, remembered for a while."""

from dataclasses import dataclass

from cachetools import TTLCache

from services.common.errors import PermissionDenied
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.descriptions import STANDARD, STORAGE_OPTIMIZED
from services.memory.stores.databricks.upstream_errors import IndexMissing

_REMEMBERED_SECONDS = 300.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Location:
    """A workspace and the endpoint in it."""

    workspace_url: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class IndexShape:
    """What decides how an index is queried, and whether it can be written to."""

    dimension: int
    """The length of its vectors."""
    source_table: str = ""
    """The table that it follows, which alone is written to; empty for an index that is written to itself."""


class EndpointTypes:
    """Remembers for a while what decides how endpoints and indexes have to be queried; both may be created again."""

    def __init__(self) -> None:
        self._types: TTLCache[Location, bool] = TTLCache(_REMEMBERED, _REMEMBERED_SECONDS)
        self._shapes: TTLCache[tuple[str, str], IndexShape] = TTLCache(_REMEMBERED, _REMEMBERED_SECONDS)

    async def storage_optimized(self, location: Location, client: VectorSearchClient) -> bool | None:
        """Return whether an endpoint takes the string language; None where that cannot be read."""
        known = self._types.get(location)
        if known is not None:
            return known
        try:
            kind = await client.get_endpoint(
                location.workspace_url, location.endpoint, lambda answer: answer.get("endpoint_type")
            )
        except (PermissionDenied, IndexMissing):
            # Tokens may be good for indexes alone: not remembered, as others may see more.
            return None
        if kind not in (STANDARD, STORAGE_OPTIMIZED):
            # Of another type, or not said: which language it takes is found out by asking.
            return None
        storage_optimized = bool(kind == STORAGE_OPTIMIZED)
        self.learn(location, storage_optimized=storage_optimized)
        return storage_optimized

    def learn(self, location: Location, *, storage_optimized: bool) -> None:
        """Remember the type of an endpoint."""
        self._types[location] = storage_optimized

    def forget(self, location: Location) -> None:
        """Ask for the type of an endpoint again the next time."""
        self._types.pop(location, None)

    def shape(self, index: tuple[str, str]) -> IndexShape | None:
        """Return what is remembered of an index, which is a workspace and a name."""
        return self._shapes.get(index)

    def learn_shape(self, index: tuple[str, str], shape: IndexShape) -> None:
        """Remember an index."""
        self._shapes[index] = shape

    def forget_shape(self, index: tuple[str, str]) -> None:
        """Ask for an index again the next time."""
        self._shapes.pop(index, None)
