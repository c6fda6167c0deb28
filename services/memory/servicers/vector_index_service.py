"""`coxswain.memory.v1.VectorIndexService` at the edge."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from coxswain.memory.v1 import vector_index_service_pb2 as pb
from coxswain.memory.v1 import vector_index_service_pb2_grpc
from services.common.errors import Unimplemented
from services.memory.domain import MemoryKind
from services.memory.schemas import DatabricksIndexSchemas

Context = grpc.aio.ServicerContext[Any, Any]


class VectorIndexServicer(vector_index_service_pb2_grpc.VectorIndexServiceServicer):
    """Converts, calls the use case, converts back."""

    async def GetSchema(self, request: pb.GetSchemaRequest, context: Context) -> pb.GetSchemaResponse:
        """Return the columns of a kind."""
        kind = MemoryKind(request.kind)
        filterable = DatabricksIndexSchemas.filterable(kind)
        positions = DatabricksIndexSchemas.get_column_positions(kind)
        return pb.GetSchemaResponse(
            fields=[
                pb.SchemaField(
                    name=name, type=type_name, filterable=name in filterable, position=positions.get(name, -1)
                )
                for name, type_name in DatabricksIndexSchemas.get_schema(kind).items()
            ],
            search_columns=DatabricksIndexSchemas.get_search_columns(kind),
            primary_key=DatabricksIndexSchemas.PRIMARY_KEY,
            vector_column=DatabricksIndexSchemas.VECTOR_COLUMN,
        )

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def SimilaritySearch(
        self, request: pb.SimilaritySearchRequest, context: Context
    ) -> pb.SimilaritySearchResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def DeleteRecords(self, request: pb.DeleteRecordsRequest, context: Context) -> pb.DeleteRecordsResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def CountDocuments(self, request: pb.CountDocumentsRequest, context: Context) -> pb.CountDocumentsResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def DescribeIndex(self, request: pb.DescribeIndexRequest, context: Context) -> pb.DescribeIndexResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def EmptyIndex(self, request: pb.EmptyIndexRequest, context: Context) -> AsyncIterator[pb.EmptyIndexResponse]:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")
        yield  # type: ignore[unreachable]

    async def CreateIndex(self, request: pb.CreateIndexRequest, context: Context) -> pb.CreateIndexResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def DeleteIndex(self, request: pb.DeleteIndexRequest, context: Context) -> pb.DeleteIndexResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context) -> pb.ListIndexesResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: Context) -> pb.CreateEndpointResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: Context) -> pb.GetEndpointResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: Context) -> pb.ListEndpointsResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")

    async def DeleteEndpoint(self, request: pb.DeleteEndpointRequest, context: Context) -> pb.DeleteEndpointResponse:
        """Not part of this installation yet."""
        raise Unimplemented.part("Databricks vector indexes")
