"""Batches of searches as messages."""

from collections.abc import Sequence

from coxswain.memory.v1 import batch_search_pb2 as pb
from coxswain.memory.v1 import memory_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto
from services.memory.domain.filters import Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import SearchMode
from services.memory.servicers.messages.filters import filter_from_proto, ranking_from_proto
from services.memory.servicers.messages.records import check_visible, encoded_record, kind_from_proto, kind_to_proto
from services.memory.usecases.batch_answers import Answer
from services.memory.usecases.batch_search import QueryInput, naming_query
from services.memory.usecases.memories import SearchInput

_PROBLEM_CHARACTERS = 1000


def queries_from_proto(request: pb.BatchSearchRecordsRequest) -> Sequence[QueryInput]:
    """Return the queries of a request.

    Raises:
        InvalidArgument: a field of one does not fit.
    """
    queries: list[QueryInput] = []
    for position, message in enumerate(request.queries):
        with naming_query(position):
            queries.append(_query_from_proto(message))
    return queries


def _query_from_proto(message: pb.SearchQuery) -> QueryInput:
    if bool(message.namespaces) == message.HasField("all_namespaces"):
        raise InvalidArgument.field(
            "namespaces", "name at least one, or set all_namespaces to search those that the group has, not both"
        )
    by_vector = message.HasField("vector")
    if not by_vector:
        check_visible(message.text, "text")
        if message.embedding_model:
            raise InvalidArgument.field("embedding_model", "says where a vector comes from; with a text leave it empty")
    namespaces = [(namespace.memory_id, kind_from_proto(namespace.kind)) for namespace in message.namespaces]
    kinds = {kind for _, kind in namespaces} or set(map(kind_from_proto, message.all_namespaces.kinds))
    filters: dict[MemoryKind, Filter] = {}
    refused: dict[MemoryKind, InvalidArgument] = {}
    for kind in sorted(kinds or MemoryKind):
        try:
            filters[kind] = filter_from_proto(message.filter, kind)
        except InvalidArgument as error:
            refused[kind] = error
    return QueryInput(
        search=SearchInput(
            text=message.text,
            vector=message.vector.values if by_vector else None,
            filter=Filter(),
            limit=message.limit,
            min_score=message.min_score if message.HasField("min_score") else None,
            ranking=ranking_from_proto(message.ranking) if message.HasField("ranking") else None,
            mode=enum_from_proto(SearchMode, memory_pb2.SearchMode, message.mode)
            if message.mode
            else SearchMode.VECTOR,
            diversity=message.diversity if message.HasField("diversity") else None,
            include_embeddings=message.include_embeddings,
            page_token="",
            fingerprint="",
        ),
        filters=filters,
        refused=refused,
        namespaces=namespaces,
        kinds=frozenset(kinds or MemoryKind),
        page_token=message.all_namespaces.page_token,
        embedding_model=message.embedding_model,
    )


def answer_to_proto(answer: Answer) -> pb.SearchAnswer:
    """Return the message of an answer."""
    message = pb.SearchAnswer(
        merge=pb.SEARCH_MERGE_RANK if answer.by_rank else pb.SEARCH_MERGE_SCORE,
        problems=[
            pb.SearchProblem(namespaces=map(_key_to_proto, keys), reason=reason, message=text[:_PROBLEM_CHARACTERS])
            for (reason, text), keys in answer.problems.items()
        ],
        next_namespaces_token=answer.next_token,
        cut=answer.cut,
        truncated=answer.truncated,
        scanned_records=answer.scanned,
        unreadable_records=answer.unreadable,
    )
    for placed in answer.results:
        info, found = placed.namespace, placed.found
        result = message.results.add(
            namespace=_key_to_proto(info.key), crew_name=info.crew_name, embedding_model=info.space.model
        )
        result.result.score, result.result.similarity = found.score, found.similarity
        result.result.record.MergeFromString(encoded_record(found.record))
    return message


def _key_to_proto(key: NamespaceKey) -> memory_pb2.Namespace:
    return memory_pb2.Namespace(memory_id=key.memory_id, kind=kind_to_proto(key.kind))
