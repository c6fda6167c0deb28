"""`coxswain.memory.v1.VectorIndexService` at the edge."""

from collections.abc import AsyncIterator

from coxswain.memory.v1 import vector_index_pb2 as pb
from coxswain.memory.v1 import vector_index_service_pb2_grpc
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.memory.servicers.messages.conditions import conditions_from_proto
from services.memory.servicers.messages.records import kind_from_proto, record_to_proto, records_from_proto
from services.memory.servicers.messages.vector_indexes import (
    adoption_step_to_proto,
    backend_key_from_proto,
    endpoint_to_proto,
    index_to_proto,
    schema_to_proto,
)
from services.memory.usecases.index_adoption import Adoption, IndexAdoptions
from services.memory.usecases.index_resources import IndexResources
from services.memory.usecases.vector_indexes import VectorIndexes


class VectorIndexServicer(vector_index_service_pb2_grpc.VectorIndexServiceServicer):
    """Indexes and endpoints of a group's Databricks backends."""

    def __init__(self, indexes: VectorIndexes, resources: IndexResources, adoptions: IndexAdoptions) -> None:
        self._indexes = indexes
        self._resources = resources
        self._adoptions = adoptions

    async def UpsertIndexRecords(
        self, request: pb.UpsertIndexRecordsRequest, context: Context
    ) -> pb.UpsertIndexRecordsResponse:
        """See the proto."""
        records = records_from_proto(request.records)
        await self._indexes.upsert(current_principal(), request.index, request.memory_id, records)
        return pb.UpsertIndexRecordsResponse(ids=[record.id for record in records])

    async def SimilaritySearch(
        self, request: pb.SimilaritySearchRequest, context: Context
    ) -> pb.SimilaritySearchResponse:
        """See the proto."""
        found = await self._indexes.search(
            current_principal(),
            request.index,
            request.memory_id,
            request.query_vector,
            lambda kind: conditions_from_proto(request.conditions, kind, "conditions"),
            request.limit,
            request.min_score if request.HasField("min_score") else None,
        )
        return pb.SimilaritySearchResponse(
            records=[
                pb.SimilarRecord(record=record_to_proto(hit.record), memory_id=hit.memory_id, score=hit.score)
                for hit in found.records
            ],
            truncated=found.truncated,
            unreadable_records=found.unreadable,
        )

    async def DeleteIndexRecords(
        self, request: pb.DeleteIndexRecordsRequest, context: Context
    ) -> pb.DeleteIndexRecordsResponse:
        """See the proto."""
        accepted = await self._indexes.delete_records(
            current_principal(), request.index, request.memory_id, list(request.ids)
        )
        return pb.DeleteIndexRecordsResponse(accepted=accepted)

    async def CountIndexRecords(
        self, request: pb.CountIndexRecordsRequest, context: Context
    ) -> pb.CountIndexRecordsResponse:
        """See the proto."""
        tally = await self._indexes.count(
            current_principal(),
            request.index,
            request.memory_id,
            lambda kind: conditions_from_proto(request.conditions, kind, "conditions"),
        )
        return pb.CountIndexRecordsResponse(count=tally.count, at_least=tally.at_least)

    async def DescribeIndex(self, request: pb.DescribeIndexRequest, context: Context) -> pb.DescribeIndexResponse:
        """See the proto."""
        info = await self._resources.describe(current_principal(), request.index)
        return pb.DescribeIndexResponse(index=index_to_proto(info))

    async def EmptyIndex(self, request: pb.EmptyIndexRequest, context: Context) -> AsyncIterator[pb.EmptyIndexResponse]:
        """See the proto."""
        progress = self._indexes.empty(current_principal(), request.index, request.memory_id, request.confirm_name)
        async for step in progress:
            yield pb.EmptyIndexResponse(done=step.done, total=step.total, rate=step.rate, finished=step.finished)

    async def CreateIndex(self, request: pb.CreateIndexRequest, context: Context) -> pb.CreateIndexResponse:
        """See the proto."""
        info = await self._resources.create_index(
            current_principal(), request.index, backend_key_from_proto(request), kind_from_proto(request.kind)
        )
        return pb.CreateIndexResponse(index=index_to_proto(info))

    async def AdoptIndex(self, request: pb.AdoptIndexRequest, context: Context) -> AsyncIterator[pb.AdoptIndexResponse]:
        """See the proto."""
        wanted = Adoption(
            index=request.index,
            kind=kind_from_proto(request.kind),
            from_group=request.from_group,
            memory_ids=dict(request.memory_ids),
            dry_run=request.dry_run,
        )
        async for step in self._adoptions.adopt(current_principal(), backend_key_from_proto(request), wanted):
            yield adoption_step_to_proto(step)

    async def DeleteIndex(self, request: pb.DeleteIndexRequest, context: Context) -> pb.DeleteIndexResponse:
        """See the proto."""
        await self._resources.delete_index(current_principal(), request.index, request.confirm_name)
        return pb.DeleteIndexResponse()

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context) -> pb.ListIndexesResponse:
        """See the proto."""
        key = backend_key_from_proto(request) if request.WhichOneof("backend") else None
        found = await self._resources.listed(current_principal(), key)
        return pb.ListIndexesResponse(indexes=[index_to_proto(info) for info in found])

    async def GetSchema(self, request: pb.GetSchemaRequest, context: Context) -> pb.GetSchemaResponse:
        """See the proto."""
        return schema_to_proto(kind_from_proto(request.kind))

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: Context) -> pb.CreateEndpointResponse:
        """See the proto."""
        made = await self._resources.create_endpoint(
            current_principal(),
            backend_key_from_proto(request),
            storage_optimized=request.type == pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED,
        )
        return pb.CreateEndpointResponse(endpoint=endpoint_to_proto(made))

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: Context) -> pb.GetEndpointResponse:
        """See the proto."""
        endpoint = await self._resources.endpoint(current_principal(), backend_key_from_proto(request))
        return pb.GetEndpointResponse(endpoint=endpoint_to_proto(endpoint))

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: Context) -> pb.ListEndpointsResponse:
        """See the proto."""
        found = await self._resources.endpoints(current_principal(), backend_key_from_proto(request))
        return pb.ListEndpointsResponse(endpoints=[endpoint_to_proto(endpoint) for endpoint in found])

    async def DeleteEndpoint(self, request: pb.DeleteEndpointRequest, context: Context) -> pb.DeleteEndpointResponse:
        """See the proto."""
        await self._resources.delete_endpoint(
            current_principal(), backend_key_from_proto(request), request.confirm_name
        )
        return pb.DeleteEndpointResponse()
