"""`coxswain.memory.v1.MemoryService` at the edge."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import Message

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc
from services.common.clock import utc_now
from services.common.errors import InvalidArgument
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.handler import Context
from services.common.paging import decode_page_token, encode_page_token, page_size
from services.memory.domain import ListPosition, MemoryKind, SearchPosition, microseconds, moment_of
from services.memory.servicers.convert import (
    filter_to_domain,
    memory_kind,
    namespace_to_message,
    ranking_to_domain,
    record_to_domain,
    record_to_message,
    scope_to_message,
)
from services.memory.usecases.memory import MemoryUseCases, Question, list_position, search_position

_STORED_ID: Final = re.compile(r"[0-9a-f]{64}")
_DEFAULT_LIMIT = 10
_MOST_RESULTS = 1 << 62
_MOST_SCORE = 2
_DEFAULT_DEPTH = 2
_DEFAULT_ENTITIES = 100
_LENGTH_BYTES = 8
"""What each record adds to the lengths of the messages it is in, at most."""
_ROOM = 64 * 1024
"""Bytes of a message left to what stands beside the records."""


class MemoryServicer(memory_service_pb2_grpc.MemoryServiceServicer):
    """Converts, calls the use case, converts back."""

    def __init__(self, memories: MemoryUseCases, max_message_bytes: int) -> None:
        self._memories = memories
        self._max_record_bytes = max_message_bytes - _ROOM

    async def SaveRecords(self, request: pb.SaveRecordsRequest, context: Context) -> pb.SaveRecordsResponse:
        """Store records."""
        request_id = current_call().request_id
        records = [
            record_to_domain(message, f"records[{place}]", request_id) for place, message in enumerate(request.records)
        ]
        await self._memories.save(current_principal(), *_place(request.namespace), records, request.embedding_model)
        return pb.SaveRecordsResponse(ids=[record.id for record in records])

    async def SearchRecords(self, request: pb.SearchRecordsRequest, context: Context) -> pb.SearchRecordsResponse:
        """Find the nearest records."""
        memory_id, kind = _place(request.namespace)
        principal = current_principal()
        searching = _searching(request, principal.group_id)
        after, asked_at = _search_position(decode_page_token(request.page_token, "search", searching))
        question = Question(
            text=request.text,
            vector=request.vector.values if request.HasField("vector") else None,
            filter=filter_to_domain(request.filter, kind),
            limit=request.limit or _DEFAULT_LIMIT,
            min_score=request.min_score if request.HasField("min_score") else None,
            ranking=ranking_to_domain(request.ranking) if request.HasField("ranking") else None,
            include_embeddings=request.include_embeddings,
            after=after,
            asked_at=asked_at,
        )
        outcome = await self._memories.search(principal, memory_id, kind, question)
        response = pb.SearchRecordsResponse(scanned_records=outcome.scanned, truncated=outcome.truncated)
        size, more = 0, outcome.cut or len(outcome.results) == question.limit
        for found in outcome.results:
            result = pb.SearchResult(
                record=record_to_message(found.record), score=found.score, similarity=found.similarity
            )
            size += result.ByteSize() + _LENGTH_BYTES
            if response.results and size > self._max_record_bytes:
                more = True
                break
            response.results.append(result)
        if more and response.results:
            rank = len(response.results) + (after.rank if after else 0)
            last = search_position(principal, memory_id, kind, outcome.results[len(response.results) - 1], rank)
            key = [last.score, last.stored_id, microseconds(asked_at), rank]
            response.next_page_token = encode_page_token("search", searching, key)
        return response

    async def GetRecord(self, request: pb.GetRecordRequest, context: Context) -> pb.GetRecordResponse:
        """Return one record."""
        record = await self._memories.get(
            current_principal(), *_place(request.namespace), request.id, embedding=request.include_embedding
        )
        return pb.GetRecordResponse(record=record_to_message(record))

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Context) -> pb.ListRecordsResponse:
        """Return a page of records; fewer than asked for when more do not fit a message."""
        memory_id, kind = _place(request.namespace)
        principal = current_principal()
        listing = {
            "group": principal.group_id,
            "crew": memory_id,
            "kind": kind.name,
            "filter": request.filter.SerializeToString(deterministic=True).hex(),
        }
        token = decode_page_token(request.page_token, "memories", listing)
        page = await self._memories.page(
            principal,
            memory_id,
            kind,
            filter_to_domain(request.filter, kind),
            page_size(request.page_size),
            _list_position(token),
            embeddings=request.include_embeddings,
        )
        response = pb.ListRecordsResponse()
        size, more = 0, page.more
        for record in page.records:
            message = record_to_message(record)
            size += message.ByteSize() + _LENGTH_BYTES
            if response.records and size > self._max_record_bytes:
                more = True
                break
            response.records.append(message)
        if more:
            last = list_position(principal, memory_id, kind, page.records[len(response.records) - 1])
            response.next_page_token = encode_page_token("memories", listing, [last.created, last.stored_id])
        return response

    async def DeleteRecords(self, request: pb.DeleteRecordsRequest, context: Context) -> pb.DeleteRecordsResponse:
        """Remove records."""
        memory_id, kind = _place(request.namespace)
        chosen = filter_to_domain(request.filter, kind) if request.HasField("filter") else None
        deleted = await self._memories.delete(current_principal(), memory_id, kind, list(request.ids), chosen)
        return pb.DeleteRecordsResponse(deleted=deleted)

    async def CountRecords(self, request: pb.CountRecordsRequest, context: Context) -> pb.CountRecordsResponse:
        """Count records."""
        memory_id, kind = _place(request.namespace)
        tally = await self._memories.count(current_principal(), memory_id, kind, filter_to_domain(request.filter, kind))
        return pb.CountRecordsResponse(count=tally.count, at_least=tally.at_least)

    async def ClearNamespace(self, request: pb.ClearNamespaceRequest, context: Context) -> pb.ClearNamespaceResponse:
        """Remove every record of a namespace."""
        return pb.ClearNamespaceResponse(
            deleted=await self._memories.clear(current_principal(), *_place(request.namespace))
        )

    async def TouchRecords(self, request: pb.TouchRecordsRequest, context: Context) -> pb.TouchRecordsResponse:
        """Record that memories were found useful now."""
        touched = await self._memories.touch(current_principal(), *_place(request.namespace), list(request.ids))
        return pb.TouchRecordsResponse(touched=touched)

    async def TraverseEntities(
        self, request: pb.TraverseEntitiesRequest, context: Context
    ) -> pb.TraverseEntitiesResponse:
        """Follow relationships."""
        graph = await self._memories.traverse(
            current_principal(),
            *_place(request.namespace),
            request.start,
            frozenset(request.relations),
            max_depth=request.max_depth or _DEFAULT_DEPTH,
            limit=request.limit or _DEFAULT_ENTITIES,
        )
        response = pb.TraverseEntitiesResponse(
            entities=[pb.EntityNode(entity_name=node.name, depth=node.depth) for node in graph.nodes],
            edges=[pb.EntityEdge(source=e.source, relation=e.relation, target=e.target) for e in graph.edges],
            truncated=graph.truncated,
        )
        size = response.ByteSize()
        if size > self._max_record_bytes:
            raise InvalidArgument.field("limit", "so many relationships do not fit a message: ask for fewer entities")
        for node, entity in zip(graph.nodes, response.entities, strict=True):
            for record in node.records:
                message = record_to_message(record)
                size += message.ByteSize() + _LENGTH_BYTES
                if size > self._max_record_bytes:
                    response.truncated = True
                    return response
                entity.records.append(message)
        return response

    async def ListScopes(self, request: pb.ListScopesRequest, context: Context) -> pb.ListScopesResponse:
        """List the scopes below one."""
        scopes = await self._memories.child_scopes(current_principal(), *_place(request.namespace), request.parent)
        response = pb.ListScopesResponse(scopes=[scope_to_message(scope) for scope in scopes])
        self._check_size(response, "parent")
        return response

    async def GetScope(self, request: pb.GetScopeRequest, context: Context) -> pb.GetScopeResponse:
        """Return the figures of a scope."""
        scope = await self._memories.scope(current_principal(), *_place(request.namespace), request.path)
        response = pb.GetScopeResponse(scope=scope_to_message(scope))
        self._check_size(response, "path")
        return response

    async def ListCategories(self, request: pb.ListCategoriesRequest, context: Context) -> pb.ListCategoriesResponse:
        """Count the records of each category."""
        counts = await self._memories.categories(current_principal(), *_place(request.namespace), request.scope_prefix)
        response = pb.ListCategoriesResponse(counts=counts)
        self._check_size(response, "scope_prefix")
        return response

    def _check_size(self, response: Message, field: str) -> None:
        if response.ByteSize() > self._max_record_bytes:
            raise InvalidArgument.field(
                field, "so many scopes and categories lie there that they do not fit a message: name a deeper scope"
            )

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Context) -> pb.ListNamespacesResponse:
        """Return a page of the group's namespaces."""
        principal = current_principal()
        listing = {"group": principal.group_id}
        token = decode_page_token(request.page_token, "namespaces", listing)
        size = page_size(request.page_size)
        after = _namespace_position(token)
        found = await self._memories.namespaces(principal, size + 1, after)
        response = pb.ListNamespacesResponse(namespaces=[namespace_to_message(info) for info in found[:size]])
        if len(found) > size:
            last = found[size - 1].key
            response.next_page_token = encode_page_token("namespaces", listing, [last.memory_id, int(last.kind)])
        return response

    async def DeriveMemoryId(self, request: pb.DeriveMemoryIdRequest, context: Context) -> pb.DeriveMemoryIdResponse:
        """Compute a crew's id."""
        memory_id = self._memories.memory_id(
            current_principal(),
            agent_roles=list(request.agent_roles),
            task_names=list(request.task_names),
            crew_name=request.crew_name,
            model=request.model,
            run_name=request.run_name,
        )
        return pb.DeriveMemoryIdResponse(memory_id=memory_id)


def _place(namespace: pb.Namespace) -> tuple[str, MemoryKind]:
    return namespace.memory_id, memory_kind(namespace.kind)


def _searching(request: pb.SearchRecordsRequest, group_id: str) -> dict[str, object]:
    """Return what a search's pages have in common."""
    same = pb.SearchRecordsRequest()
    same.CopyFrom(request)
    for field in ("limit", "include_embeddings", "page_token"):
        same.ClearField(field)
    return {"group": group_id, "search": hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()}


def _search_position(token: list[Any] | None) -> tuple[SearchPosition | None, datetime]:
    """Return where to go on, and when the first page was asked for."""
    match token:
        case None:
            return None, utc_now()
        case [int() | float() as score, str(stored_id), int(asked), int(rank)] if (
            abs(score) < _MOST_SCORE and _is_moment(asked) and 0 < rank < _MOST_RESULTS
        ):
            return SearchPosition(score, _stored_id(stored_id), rank), moment_of(asked)
        case _:
            raise _forged()


def _list_position(token: list[Any] | None) -> ListPosition | None:
    match token:
        case None:
            return None
        case [int(created), str(stored_id)] if _is_moment(created):
            return ListPosition(created, _stored_id(stored_id))
        case _:
            raise _forged()


def _is_moment(us: int) -> bool:
    return microseconds(datetime.min.replace(tzinfo=UTC)) <= us <= microseconds(datetime.max.replace(tzinfo=UTC))


def _stored_id(text: str) -> str:
    if not _STORED_ID.fullmatch(text):
        raise _forged()
    return text


def _namespace_position(token: list[Any] | None) -> tuple[str, int] | None:
    match token:
        case None:
            return None
        case [str(memory_id), int(kind)] if kind in tuple(MemoryKind) and "\x00" not in memory_id:
            return memory_id, kind
        case _:
            raise _forged()


def _forged() -> InvalidArgument:
    return InvalidArgument.field("page_token", "not a token of this listing", reason="INVALID_PAGE_TOKEN")
