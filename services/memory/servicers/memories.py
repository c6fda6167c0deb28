"""`coxswain.memory.v1.MemoryService` at the edge."""

from collections.abc import AsyncIterator

from coxswain.memory.v1 import batch_search_pb2, memory_service_pb2_grpc
from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_version_pb2 as version_pb
from services.common.db.idempotency import request_hash
from services.common.errors import InvalidArgument
from services.common.grpc.call import current_principal
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.handler import Context
from services.common.grpc.times import optional_timestamp_from_proto
from services.memory.domain.filters import Filter
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import SearchMode
from services.memory.servicers.messages.batch_searches import answer_to_proto, queries_from_proto
from services.memory.servicers.messages.filters import filter_from_proto, ranking_from_proto, reranking_from_proto
from services.memory.servicers.messages.history import policy_to_proto, version_to_proto
from services.memory.servicers.messages.namespaces import graph_to_proto, namespace_to_proto, scope_to_proto
from services.memory.servicers.messages.records import (
    check_visible,
    encoded_record,
    kind_from_proto,
    record_to_proto,
    records_from_proto,
)
from services.memory.servicers.messages.transfers import origin_to_proto, progress_to_proto
from services.memory.usecases.batch_search import BatchSearches
from services.memory.usecases.memories import ListInput, Memories, SearchInput
from services.memory.usecases.namespaces import Namespaces
from services.memory.usecases.record_history import RecordHistory, VersionsInput
from services.memory.usecases.subjects import Subjects
from services.memory.usecases.transfers import (
    ExportInput,
    ImportProgress,
    ImportTarget,
    Transfers,
    naming_message,
    no_target,
)

_NO_FILTER = Filter()


class MemoryServicer(memory_service_pb2_grpc.MemoryServiceServicer):
    """Records of crews: saved, searched, listed and removed."""

    def __init__(
        self,
        memories: Memories,
        batches: BatchSearches,
        history: RecordHistory,
        namespaces: Namespaces,
        subjects: Subjects,
        transfers: Transfers,
    ) -> None:
        self._memories = memories
        self._batches = batches
        self._history = history
        self._namespaces = namespaces
        self._subjects = subjects
        self._transfers = transfers

    async def SaveRecords(self, request: pb.SaveRecordsRequest, context: Context) -> pb.SaveRecordsResponse:
        """See the proto."""
        saved = await self._memories.save(
            current_principal(),
            *_namespace(request.namespace),
            records_from_proto(request.records),
            request.embedding_model,
            request.crew_name,
            request.near_copy_similarity,
        )
        return pb.SaveRecordsResponse(
            ids=[record.id for record in saved],
            records=[
                pb.SavedRecord(id=r.id, outcome=enum_to_proto(pb.SaveOutcome, r.outcome), revision=r.revision)
                for r in saved
            ],
        )

    async def SearchRecords(self, request: pb.SearchRecordsRequest, context: Context) -> pb.SearchRecordsResponse:
        """See the proto."""
        memory_id, kind = _namespace(request.namespace)
        if not request.HasField("vector"):
            check_visible(request.text, "text")
        search = SearchInput(
            text=request.text,
            vector=request.vector.values if request.HasField("vector") else None,
            filter=filter_from_proto(request.filter, kind) if request.HasField("filter") else _NO_FILTER,
            limit=request.limit,
            min_score=request.min_score if request.HasField("min_score") else None,
            ranking=ranking_from_proto(request.ranking) if request.HasField("ranking") else None,
            mode=enum_from_proto(SearchMode, pb.SearchMode, request.mode) if request.mode else SearchMode.VECTOR,
            diversity=request.diversity if request.HasField("diversity") else None,
            reranking=reranking_from_proto(request) if request.HasField("reranking") else None,
            include_embeddings=request.include_embeddings,
            page_token=request.page_token,
            fingerprint=request_hash(request, "limit", "include_embeddings", "page_token", "crew_name"),
        )
        outcome, next_page_token = await self._memories.search(
            current_principal(), memory_id, kind, search, request.crew_name
        )
        response = pb.SearchRecordsResponse(
            scanned_records=outcome.scanned,
            truncated=outcome.truncated,
            unreadable_records=outcome.unreadable,
            next_page_token=next_page_token,
        )
        for found in outcome.results:
            result = response.results.add(score=found.score, similarity=found.similarity)
            result.record.MergeFromString(encoded_record(found.record))
        return response

    async def BatchSearchRecords(
        self, request: batch_search_pb2.BatchSearchRecordsRequest, context: Context
    ) -> batch_search_pb2.BatchSearchRecordsResponse:
        """See the proto."""
        queries = queries_from_proto(request)
        answers = await self._batches.search(current_principal(), queries, request.crew_name)
        return batch_search_pb2.BatchSearchRecordsResponse(answers=map(answer_to_proto, answers))

    async def GetRecord(self, request: pb.GetRecordRequest, context: Context) -> pb.GetRecordResponse:
        """See the proto."""
        seen = Filter(source=request.source, include_private=request.include_private)
        asked = current_principal(), *_namespace(request.namespace), request.id, seen
        moment = optional_timestamp_from_proto(request, "at_time")
        if moment is None:
            record = await self._memories.get(*asked, embedding=request.include_embedding)
        elif request.include_embedding:
            raise InvalidArgument.field("include_embedding", "the history keeps no vectors; leave it out with at_time")
        else:
            record = await self._history.at(*asked, moment)
        return pb.GetRecordResponse(record=record_to_proto(record))

    async def ListRecordVersions(
        self, request: version_pb.ListRecordVersionsRequest, context: Context
    ) -> version_pb.ListRecordVersionsResponse:
        """See the proto."""
        listing = VersionsInput(
            record_id=request.id,
            seen=Filter(source=request.source, include_private=request.include_private),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        versions, next_page_token, days = await self._history.versions(
            current_principal(), *_namespace(request.namespace), listing
        )
        return version_pb.ListRecordVersionsResponse(
            versions=map(version_to_proto, versions), next_page_token=next_page_token, history_days=days
        )

    async def GetHistoryPolicy(
        self, request: version_pb.GetHistoryPolicyRequest, context: Context
    ) -> version_pb.GetHistoryPolicyResponse:
        """See the proto."""
        policy = await self._history.policy(current_principal())
        return version_pb.GetHistoryPolicyResponse(policy=policy_to_proto(policy, self._history.limits))

    async def SetHistoryPolicy(
        self, request: version_pb.SetHistoryPolicyRequest, context: Context
    ) -> version_pb.SetHistoryPolicyResponse:
        """See the proto."""
        days = request.days if request.WhichOneof("policy") == "days" else None
        policy = await self._history.set_policy(current_principal(), days)
        return version_pb.SetHistoryPolicyResponse(policy=policy_to_proto(policy, self._history.limits))

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Context) -> pb.ListRecordsResponse:
        """See the proto."""
        memory_id, kind = _namespace(request.namespace)
        listing = ListInput(
            filter=filter_from_proto(request.filter, kind),
            page_size=request.page_size,
            page_token=request.page_token,
            include_embeddings=request.include_embeddings,
            fingerprint=request_hash(request.filter),
        )
        page, next_page_token = await self._memories.page(current_principal(), memory_id, kind, listing)
        return pb.ListRecordsResponse(
            records=[record_to_proto(record) for record in page.records],
            next_page_token=next_page_token,
            unreadable_records=page.unreadable,
        )

    async def ExportRecords(
        self, request: pb.ExportRecordsRequest, context: Context
    ) -> AsyncIterator[pb.ExportRecordsResponse]:
        """See the proto."""
        memory_id, kind = _namespace(request.namespace)
        export = ExportInput(
            filter=filter_from_proto(request.filter, kind),
            include_embeddings=request.include_embeddings,
            page_token=request.page_token,
            fingerprint=request_hash(request.filter),
        )
        principal = current_principal()
        yield origin_to_proto(await self._transfers.origin(principal, memory_id, kind, export))
        async for part in self._transfers.export(principal, memory_id, kind, export):
            yield pb.ExportRecordsResponse(
                records=[record_to_proto(record) for record in part.records], next_page_token=part.next_page_token
            )

    async def ImportRecords(
        self, requests: AsyncIterator[pb.ImportRecordsRequest], context: Context
    ) -> AsyncIterator[pb.ImportRecordsResponse]:
        """See the proto."""
        principal = current_principal()
        target: ImportTarget | None = None
        progress = ImportProgress()
        async for request in requests:
            if request.HasField("target"):
                target = ImportTarget(
                    *_namespace(request.target.namespace), request.target.embedding_model, request.target.crew_name
                )
            with naming_message(progress):
                if target is None:
                    raise no_target()
                records = records_from_proto(request.records)
                await self._transfers.store(principal, target, records, progress)
            yield progress_to_proto(progress)

    async def DeleteRecords(self, request: pb.DeleteRecordsRequest, context: Context) -> pb.DeleteRecordsResponse:
        """See the proto."""
        memory_id, kind = _namespace(request.namespace)
        chosen = filter_from_proto(request.filter, kind) if request.HasField("filter") else None
        deleted, days = await self._memories.delete(
            current_principal(), memory_id, kind, list(request.ids), chosen, purge_history=request.purge_history
        )
        return pb.DeleteRecordsResponse(deleted=deleted, history_days=days)

    async def CountRecords(self, request: pb.CountRecordsRequest, context: Context) -> pb.CountRecordsResponse:
        """See the proto."""
        memory_id, kind = _namespace(request.namespace)
        chosen = filter_from_proto(request.filter, kind)
        tally = await self._memories.count(current_principal(), memory_id, kind, chosen)
        return pb.CountRecordsResponse(count=tally.count, at_least=tally.at_least)

    async def ClearNamespace(self, request: pb.ClearNamespaceRequest, context: Context) -> pb.ClearNamespaceResponse:
        """See the proto."""
        deleted = await self._namespaces.clear(current_principal(), *_namespace(request.namespace))
        return pb.ClearNamespaceResponse(deleted=deleted)

    async def TouchRecords(self, request: pb.TouchRecordsRequest, context: Context) -> pb.TouchRecordsResponse:
        """See the proto."""
        touched = await self._memories.touch(
            current_principal(), *_namespace(request.namespace), list(request.ids), request.source
        )
        return pb.TouchRecordsResponse(touched=touched)

    async def TraverseEntities(
        self, request: pb.TraverseEntitiesRequest, context: Context
    ) -> pb.TraverseEntitiesResponse:
        """See the proto."""
        graph = await self._namespaces.traverse(
            current_principal(),
            *_namespace(request.namespace),
            request.start,
            frozenset(request.relations),
            max_depth=request.max_depth,
            limit=request.limit,
        )
        return graph_to_proto(graph)

    async def ListScopes(self, request: pb.ListScopesRequest, context: Context) -> pb.ListScopesResponse:
        """See the proto."""
        scopes = await self._namespaces.child_scopes(
            current_principal(), *_namespace(request.namespace), request.parent
        )
        return pb.ListScopesResponse(scopes=[scope_to_proto(scope) for scope in scopes])

    async def GetScope(self, request: pb.GetScopeRequest, context: Context) -> pb.GetScopeResponse:
        """See the proto."""
        scope = await self._namespaces.scope(current_principal(), *_namespace(request.namespace), request.path)
        return pb.GetScopeResponse(scope=scope_to_proto(scope))

    async def ListCategories(self, request: pb.ListCategoriesRequest, context: Context) -> pb.ListCategoriesResponse:
        """See the proto."""
        counts = await self._namespaces.categories(
            current_principal(), *_namespace(request.namespace), request.scope_prefix
        )
        return pb.ListCategoriesResponse(counts=counts)

    async def ForgetSubject(self, request: pb.ForgetSubjectRequest, context: Context) -> pb.ForgetSubjectResponse:
        """See the proto."""
        results = await self._subjects.forget(current_principal(), request.subject, dry_run=request.dry_run)
        return pb.ForgetSubjectResponse(
            namespaces=[
                pb.ForgottenRecords(
                    namespace=namespace_to_proto(result.namespace).namespace,
                    crew_name=result.namespace.crew_name,
                    removed=result.removed,
                    kept=result.kept,
                    problem=result.problem,
                    removed_versions=result.removed_versions,
                )
                for result in results
            ],
            removed=sum(result.removed for result in results),
            kept=sum(result.kept for result in results),
        )

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Context) -> pb.ListNamespacesResponse:
        """See the proto."""
        page = await self._namespaces.page(current_principal(), request.page_size, request.page_token)
        return pb.ListNamespacesResponse(
            namespaces=[namespace_to_proto(info) for info in page.items], next_page_token=page.next_page_token
        )

    async def DeriveMemoryId(self, request: pb.DeriveMemoryIdRequest, context: Context) -> pb.DeriveMemoryIdResponse:
        """See the proto."""
        memory_id = self._namespaces.memory_id(
            current_principal(),
            agent_roles=list(request.agent_roles),
            task_names=list(request.task_names),
            crew_name=request.crew_name,
            model=request.model,
            run_name=request.run_name,
            memory_name=request.memory_name,
        )
        return pb.DeriveMemoryIdResponse(memory_id=memory_id)


def _namespace(namespace: pb.Namespace) -> tuple[str, MemoryKind]:
    return namespace.memory_id, kind_from_proto(namespace.kind)
