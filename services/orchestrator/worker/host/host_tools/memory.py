"""Tools that look things up in the crew's memory and in the group's documents."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.errors import CoxswainError
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.json_values import to_value
from services.common.storable import storable
from services.orchestrator.domain.crew import MemoryKind, RecallSpec
from services.orchestrator.messages.knowledge import records_filter
from services.orchestrator.recall import recalling
from services.orchestrator.worker.host.host_tools.base import HostToolCall, HostToolError
from services.orchestrator.worker.host.memory_calls import MemoryCalls
from services.orchestrator.worker.host.peer_retry import is_absence

DEFAULT_RESULTS = 5
_SPARE = 4
"""So many times the results that are wanted are asked for: some may be for other agents only."""


class MemorySearch:
    """Finds what the crew remembers."""

    def __init__(self, open_memory: Callable[[], Awaitable[MemoryCalls | None]], recall: RecallSpec) -> None:
        """`open_memory` returns the crew's memory, None when it has none; `recall` says how it is searched."""
        self._open = open_memory
        self._recall = recall

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        memory = await self._open()
        if memory is None:
            raise HostToolError("this crew has no memory")
        limit = call.arguments.get("limit", DEFAULT_RESULTS)
        request = recalling(memory_pb2.SearchRecordsRequest(text=_query(call), limit=int(limit)), self._recall)
        found = (await _asked(memory.search_records(request))).results
        return _shown(found, by_vector=request.mode == memory_pb2.SEARCH_MODE_VECTOR)


class DocumentSearch:
    """Finds records of the group that the crew's settings name."""

    def __init__(
        self,
        open_memory: Callable[[memory_pb2.Namespace], MemoryCalls],
        names_of: Callable[[str], frozenset[str]],
    ) -> None:
        """`open_memory` returns what may search a namespace; `names_of` the names of the agents of a role."""
        self._open = open_memory
        self._names_of = names_of

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        config, limit = call.config, int(call.arguments.get("limit", DEFAULT_RESULTS))
        kind = enum_to_proto(record_pb2.MemoryKind, MemoryKind(str(config.get("kind", "document")).upper()))
        namespace = memory_pb2.Namespace(memory_id=config.get("memory_id", ""), kind=kind)
        request = memory_pb2.SearchRecordsRequest(
            namespace=namespace,
            text=_query(call),
            limit=limit * _SPARE,
            filter=records_filter(config.get("scope", ""), config.get("document_ids", ())),
        )
        for key, value in call.arguments.get("metadata", {}).items():
            request.filter.metadata[storable(key)].CopyFrom(to_value(value))
        found = (await _asked(self._open(namespace).search_knowledge(request))).results
        readers = self._names_of(call.agent_role)
        return _shown([one for one in found if _may_read(one.record, readers)][:limit])


def _may_read(record: record_pb2.Record, readers: frozenset[str]) -> bool:
    allowed = set(record.document.agent_ids)
    return not allowed or (bool(readers) and readers <= allowed)


def _query(call: HostToolCall) -> str:
    return storable(call.arguments["query"])


async def _asked(answer: Awaitable[memory_pb2.SearchRecordsResponse]) -> memory_pb2.SearchRecordsResponse:
    try:
        return await answer
    except CoxswainError as error:
        if is_absence(error):
            raise
        raise HostToolError(error.message) from error


def _shown(results: Any, *, by_vector: bool = True) -> str:
    if not results:
        return "nothing was found"
    return json.dumps([_entry(one, by_vector=by_vector) for one in results], ensure_ascii=False, indent=1)


def _entry(result: memory_pb2.SearchResult, *, by_vector: bool) -> dict[str, Any]:
    record = result.record
    kind = record.WhichOneof("kind") or "unified"
    if kind == "entity":
        content = f"{record.entity.entity_name}: {record.entity.description}"
    else:
        content = getattr(record, kind).content
    # What words have found has no similarity, and what they have found too is not in the order of similarities.
    name, value = ("similarity", result.similarity) if by_vector else ("score", result.score)
    entry: dict[str, Any] = {"content": content, name: round(value, 3)}
    document = record.document
    optional = {
        "document": document.parent_document_id,
        "title": document.title,
        "section": document.section,
        "page": document.page,
        "source": document.source,
    }
    return entry | {name: value for name, value in optional.items() if value}
