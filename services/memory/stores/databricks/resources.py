"""The indexes and the endpoint of a workspace themselves: describing, making, listing and removing them."""

import json

from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.descriptions import (
    STORAGE_OPTIMIZED,
    EndpointDescription,
    IndexDescription,
    endpoint_description,
    index_description,
    index_name,
)
from services.memory.stores.databricks.endpoint_types import EndpointTypes, Location
from services.memory.stores.databricks.upstream_errors import IndexMissing


class WorkspaceResources:
    """What one location has, called with the credential of the current caller."""

    def __init__(self, client: VectorSearchClient, location: Location, endpoint_types: EndpointTypes) -> None:
        self._client = client
        self._location = location
        self._endpoint_types = endpoint_types

    @property
    def endpoint(self) -> str:
        """Name of the endpoint that serves the indexes."""
        return self._location.endpoint

    async def describe_index(self, index: str) -> IndexDescription:
        """Return what an index is like; NOT_FOUND when there is none."""
        try:
            return await self._client.get_index(
                self._location.workspace_url, index, lambda answer: index_description(index, answer)
            )
        except IndexMissing:
            return IndexDescription(index)

    async def create_index(self, index: str, kind: MemoryKind, dimension: int) -> IndexDescription:
        """Make a direct-access index with the schema of a kind.

        Raises:
            FailedPrecondition: the name is taken or still reserved, or the endpoint is not there or not ready.
            ResourceExhausted: the endpoint serves as many indexes as it can.
        """
        return await self._client.create_index(
            self._location.workspace_url,
            {
                "name": index,
                "endpoint_name": self._location.endpoint,
                "index_type": DatabricksIndexSchemas.INDEX_TYPE,
                "primary_key": DatabricksIndexSchemas.PRIMARY_KEY,
                "direct_access_index_spec": {
                    "embedding_vector_columns": [
                        {"name": DatabricksIndexSchemas.VECTOR_COLUMN, "embedding_dimension": dimension}
                    ],
                    "schema_json": json.dumps(DatabricksIndexSchemas.get_schema(kind)),
                },
            },
            lambda answer: index_description(index, answer),
        )

    async def delete_index(self, index: str) -> None:
        """Remove an index; one that does not exist is not a failure."""
        try:
            await self._client.delete_index(self._location.workspace_url, index)
        except IndexMissing:
            return
        finally:
            # Not before: a search meanwhile would remember it again.
            self._endpoint_types.forget_shape((self._location.workspace_url, index))

    async def list_indexes(self) -> list[str]:
        """Return the names of the indexes that the endpoint serves."""
        return sorted(
            await self._client.list_indexes(self._location.workspace_url, self._location.endpoint, index_name)
        )

    async def describe_endpoint(self) -> EndpointDescription:
        """Return what the endpoint is like; NOT_FOUND when there is none."""
        try:
            return await self._client.get_endpoint(
                self._location.workspace_url, self._location.endpoint, endpoint_description
            )
        except IndexMissing:
            return EndpointDescription(self._location.endpoint)

    async def create_endpoint(self, *, storage_optimized: bool, target_qps: int | None = None) -> EndpointDescription:
        """Make the endpoint; `target_qps` is how many queries a second it shall be made for.

        Raises:
            FailedPrecondition: there is one of that name.
        """
        kind = STORAGE_OPTIMIZED if storage_optimized else "STANDARD"
        try:
            return await self._client.create_endpoint(
                self._location.workspace_url, self._location.endpoint, kind, target_qps, endpoint_description
            )
        finally:
            self._endpoint_types.forget(self._location)

    async def list_endpoints(self) -> list[EndpointDescription]:
        """Return the workspace's endpoints by name."""
        found = await self._client.list_endpoints(self._location.workspace_url, endpoint_description)
        return sorted(found, key=lambda endpoint: endpoint.name)

    async def delete_endpoint(self) -> None:
        """Remove the endpoint; one that does not exist is not a failure.

        Raises:
            FailedPrecondition: it still serves indexes.
        """
        try:
            await self._client.delete_endpoint(self._location.workspace_url, self._location.endpoint)
        except IndexMissing:
            return
        finally:
            self._endpoint_types.forget(self._location)
