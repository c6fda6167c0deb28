"""`coxswain.memory.v1.VectorIndexService` at the edge."""

from collections.abc import AsyncIterator

from coxswain.memory.v1 import record_pb2, vector_index_service_pb2_grpc
from coxswain.memory.v1 import vector_index_pb2 as pb
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.handler import Context
from services.memory.domain import MemoryKind
from services.memory.schemas import DatabricksIndexSchemas
from services.memory.servicers.convert import conditions_to_domain, record_to_domain, record_to_message
from services.memory.stores.databricks.descriptions import EndpointDescription, ResourceState
from services.memory.usecases.vector_indexes import IndexInfo, VectorIndexUseCases

_DEFAULT_LIMIT = 10


class VectorIndexServicer(vector_index_service_pb2_grpc.VectorIndexServiceServicer):
    """Converts, calls the use case, converts back."""

    def __init__(self, indexes: VectorIndexUseCases) -> None:
        self._indexes = indexes

    async def UpsertIndexRecords(
        self, request: pb.UpsertIndexRecordsRequest, context: Context
    ) -> pb.UpsertIndexRecordsResponse:
        """Write records into an index."""
        request_id = current_call().request_id
        records = [
            record_to_domain(message, f"records[{place}]", request_id) for place, message in enumerate(request.records)
        ]
        await self._indexes.upsert(current_principal(), request.index, request.memory_id, records)
        return pb.UpsertIndexRecordsResponse(ids=[record.id for record in records])

    async def SimilaritySearch(
        self, request: pb.SimilaritySearchRequest, context: Context
    ) -> pb.SimilaritySearchResponse:
        """Find the nearest records."""
        principal = current_principal()
        index = await self._indexes.registered(principal, request.index)
        found = await self._indexes.search(
            principal,
            index,
            request.memory_id,
            request.query_vector,
            conditions_to_domain(request.conditions, index.kind, "conditions"),
            request.limit or _DEFAULT_LIMIT,
            request.min_score if request.HasField("min_score") else None,
        )
        return pb.SimilaritySearchResponse(
            records=[
                pb.SimilarRecord(record=record_to_message(hit.record), memory_id=hit.memory_id, score=hit.score)
                for hit in found.records
            ],
            truncated=found.truncated,
        )

    async def DeleteIndexRecords(
        self, request: pb.DeleteIndexRecordsRequest, context: Context
    ) -> pb.DeleteIndexRecordsResponse:
        """Remove records by id."""
        accepted = await self._indexes.delete_records(
            current_principal(), request.index, request.memory_id, list(request.ids)
        )
        return pb.DeleteIndexRecordsResponse(accepted=accepted)

    async def CountIndexRecords(
        self, request: pb.CountIndexRecordsRequest, context: Context
    ) -> pb.CountIndexRecordsResponse:
        """Count records."""
        principal = current_principal()
        index = await self._indexes.registered(principal, request.index)
        conditions = conditions_to_domain(request.conditions, index.kind, "conditions")
        tally = await self._indexes.count(principal, index, request.memory_id, conditions)
        return pb.CountIndexRecordsResponse(count=tally.count, at_least=tally.at_least)

    async def DescribeIndex(self, request: pb.DescribeIndexRequest, context: Context) -> pb.DescribeIndexResponse:
        """Return the state of an index."""
        info = await self._indexes.describe(current_principal(), request.index)
        return pb.DescribeIndexResponse(index=_index_to_message(info))

    async def EmptyIndex(self, request: pb.EmptyIndexRequest, context: Context) -> AsyncIterator[pb.EmptyIndexResponse]:
        """Remove the group's records from an index."""
        progress = self._indexes.empty(current_principal(), request.index, request.memory_id, request.confirm_name)
        async for step in progress:
            yield pb.EmptyIndexResponse(done=step.done, total=step.total, rate=step.rate, finished=step.finished)

    async def CreateIndex(self, request: pb.CreateIndexRequest, context: Context) -> pb.CreateIndexResponse:
        """Make an index."""
        info = await self._indexes.create_index(
            current_principal(), request.index, request.backend_id, MemoryKind(request.kind)
        )
        return pb.CreateIndexResponse(index=_index_to_message(info))

    async def DeleteIndex(self, request: pb.DeleteIndexRequest, context: Context) -> pb.DeleteIndexResponse:
        """Drop an index."""
        await self._indexes.delete_index(current_principal(), request.index, request.confirm_name)
        return pb.DeleteIndexResponse()

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context) -> pb.ListIndexesResponse:
        """List the group's indexes."""
        found = await self._indexes.listed(current_principal(), request.backend_id)
        return pb.ListIndexesResponse(indexes=[_index_to_message(info) for info in found])

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

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: Context) -> pb.CreateEndpointResponse:
        """Make a backend's endpoint."""
        made = await self._indexes.create_endpoint(
            current_principal(),
            request.backend_id,
            storage_optimized=request.type == pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED,
        )
        return pb.CreateEndpointResponse(endpoint=_endpoint_to_message(made))

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: Context) -> pb.GetEndpointResponse:
        """Return the state of a backend's endpoint."""
        endpoint = await self._indexes.endpoint(current_principal(), request.backend_id)
        return pb.GetEndpointResponse(endpoint=_endpoint_to_message(endpoint))

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: Context) -> pb.ListEndpointsResponse:
        """List the endpoints of a backend's workspace."""
        found = await self._indexes.endpoints(current_principal(), request.backend_id)
        return pb.ListEndpointsResponse(endpoints=[_endpoint_to_message(endpoint) for endpoint in found])

    async def DeleteEndpoint(self, request: pb.DeleteEndpointRequest, context: Context) -> pb.DeleteEndpointResponse:
        """Remove a backend's endpoint."""
        await self._indexes.delete_endpoint(current_principal(), request.backend_id, request.confirm_name)
        return pb.DeleteEndpointResponse()


def _index_to_message(info: IndexInfo) -> pb.IndexInfo:
    registered, description = info.registered, info.description
    config = registered.backend.databricks
    return pb.IndexInfo(
        index=registered.name,
        endpoint=description.endpoint or (config.endpoint if config else ""),
        kind=record_pb2.MemoryKind.ValueType(int(registered.kind)),
        state=_state(description.state),
        detailed_state=description.detailed_state,
        message=description.message,
        embedding_dimension=description.dimension,
        shared=registered.shared,
    )


def _endpoint_to_message(endpoint: EndpointDescription) -> pb.EndpointInfo:
    return pb.EndpointInfo(
        name=endpoint.name,
        type=pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED if endpoint.storage_optimized else pb.ENDPOINT_TYPE_STANDARD,
        state=_state(endpoint.state),
        detailed_state=endpoint.detailed_state,
        message=endpoint.message,
        index_count=endpoint.index_count,
    )


def _state(state: ResourceState) -> pb.ResourceState.ValueType:
    return pb.ResourceState.ValueType(state.value)
