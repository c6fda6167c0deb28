"""Serves what a crew process asks of its crew's memories."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import structlog
from google.protobuf.message import Message

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc, record_pb2
from services.common.errors import CoxswainError, FailedPrecondition, NotFound
from services.common.visible_text import has_visible_text
from services.orchestrator.recall import MOST_CHOSEN, chooses, looks_for_nothing
from services.orchestrator.worker.host.peer_retry import call_peer
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.link.result_parts import PARTS

logger = structlog.get_logger(__name__)

_MAX_RESULTS = 10_000
_MAX_PAGE_SIZE = 1_000

Response = TypeVar("Response", bound=Message)


class MemoryCalls:
    """The memory service, always confined to the namespace of one crew and those that its knowledge names."""

    def __init__(
        self,
        memory: "memory_service_pb2_grpc.MemoryServiceAsyncStub",
        principal: ExecutionPrincipal,
        *,
        memory_id: str,
        crew_name: str,
        embedding_model: str,
        retry_seconds: float,
        confirm_claim: Callable[[], Awaitable[None]],
        knowledge: Collection[pb.Namespace] = (),
        near_copy_similarity: float = 0.0,
    ) -> None:
        """`retry_seconds` is for how long an absent service is asked again.

        A new memory replaces the text of one that is as similar as `near_copy_similarity`; 0 means that none does. A
        part of a long result never does.

        `confirm_claim` raises when the execution is another host's: this one may have been taken for dead, and what it
        would still save or remove is no longer its business.
        """
        self._memory = memory
        self._principal = principal
        self._retry_seconds = retry_seconds
        self._namespace = pb.Namespace(memory_id=memory_id, kind=record_pb2.MEMORY_KIND_UNIFIED)
        self._confirm_claim = confirm_claim
        self._knowledge = knowledge
        self._crew_name = crew_name
        self._embedding_model = embedding_model
        self._near_copy_similarity = near_copy_similarity

    async def save_records(self, request: pb.SaveRecordsRequest) -> pb.SaveRecordsResponse:
        """Save memories, embedded by the crew's model."""
        request.embedding_model = self._embedding_model
        request.crew_name = self._crew_name
        in_parts = any(PARTS in record.metadata.fields for record in request.records)
        request.near_copy_similarity = 0.0 if in_parts else self._near_copy_similarity
        try:
            return await self._ask(self._claimed(self._memory.SaveRecords), request)
        except FailedPrecondition as error:
            expecting = [record for record in request.records if record.HasField("expected_revision")]
            if error.reason != "INVALID_FIELD" or not expecting:
                raise
        # Not every backend can compare.
        for record in expecting:
            record.ClearField("expected_revision")
        return await self._ask(self._claimed(self._memory.SaveRecords), request)

    async def search_records(self, request: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        """Return up to `limit` memories, no text twice, from as many searches as that takes."""
        return await self._search(request, self._namespace, distinct=True)

    async def search_knowledge(self, request: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        """Return up to `limit` records of the namespace that is asked for.

        Raises:
            NotFound: the crew's knowledge does not name this namespace.
        """
        if request.namespace not in self._knowledge:
            raise NotFound.of("memory", request.namespace.memory_id)
        return await self._search(request, request.namespace)

    async def _search(
        self, request: pb.SearchRecordsRequest, namespace: pb.Namespace, *, distinct: bool = False
    ) -> pb.SearchRecordsResponse:
        found, limit = pb.SearchRecordsResponse(), request.limit
        most = MOST_CHOSEN if chooses(request) else _MAX_RESULTS
        texts: set[str] = set()
        repeated = 0
        if not request.HasField("vector") and (not has_visible_text(request.text) or looks_for_nothing(request)):
            # There is nothing to look for, and the service refuses to.
            return found
        request.crew_name = self._crew_name
        while len(found.results) < limit:
            # What is passed over makes the next page longer: there may be many scopes with the same text.
            wanted = limit - len(found.results) + 2 * repeated
            request.limit = min(most, wanted)
            response = await self._ask(self._memory.SearchRecords, request, namespace)
            for result in response.results:
                text = result.record.unified.content.strip()
                if distinct and text in texts:
                    repeated += 1
                elif len(found.results) < limit:
                    found.results.append(result)
                    texts.add(text)
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        return found

    async def get_record(self, request: pb.GetRecordRequest) -> pb.GetRecordResponse:
        """Return a memory, or a response without one."""
        try:
            return await self._ask(self._memory.GetRecord, request)
        except CoxswainError as error:
            if error.reason == "NOT_FOUND":
                return pb.GetRecordResponse()
            raise

    async def list_records(self, request: pb.ListRecordsRequest) -> pb.ListRecordsResponse:
        """Return up to `page_size` memories, from as many pages as that takes."""
        listed, limit = pb.ListRecordsResponse(), request.page_size
        while len(listed.records) < limit:
            request.page_size = min(_MAX_PAGE_SIZE, limit - len(listed.records))
            response = await self._ask(self._memory.ListRecords, request)
            listed.records.extend(response.records)
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        return listed

    async def delete_records(self, request: pb.DeleteRecordsRequest) -> pb.DeleteRecordsResponse:
        """Remove memories."""
        return await self._ask(self._claimed(self._memory.DeleteRecords), request)

    async def count_records(self, request: pb.CountRecordsRequest) -> pb.CountRecordsResponse:
        """Count memories."""
        return await self._ask(self._memory.CountRecords, request)

    async def touch_records(self, request: pb.TouchRecordsRequest) -> None:
        """Note that memories were found just now; a failure is only logged."""
        try:
            await self._ask(self._memory.TouchRecords, request)
        except CoxswainError as error:
            logger.info("memories_not_touched", reason=error.reason)

    async def list_scopes(self, request: pb.ListScopesRequest) -> pb.ListScopesResponse:
        """List the scopes directly below one."""
        return await self._ask(self._memory.ListScopes, request)

    async def get_scope(self, request: pb.GetScopeRequest) -> pb.GetScopeResponse:
        """Return the figures of a scope."""
        return await self._ask(self._memory.GetScope, request)

    async def list_categories(self, request: pb.ListCategoriesRequest) -> pb.ListCategoriesResponse:
        """Count memories by category."""
        return await self._ask(self._memory.ListCategories, request)

    def _claimed(self, method: Callable[[Any], Awaitable[Response]]) -> Callable[[Any], Awaitable[Response]]:
        """Return a method that first makes sure, whenever it is called, that the execution is still this host's."""

        async def call(request: Any) -> Response:
            await self._confirm_claim()
            return await method(request)

        return call

    async def _ask(
        self, method: Callable[..., Awaitable[Response]], request: Any, namespace: pb.Namespace | None = None
    ) -> Response:
        request.namespace.CopyFrom(namespace or self._namespace)
        return await call_peer(self._principal, "memory", method, request, self._retry_seconds)
