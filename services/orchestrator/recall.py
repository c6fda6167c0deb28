"""How a crew's memories are searched for, by its agents and by the tool of the host alike."""

from coxswain.memory.v1 import memory_pb2
from services.common.grpc.enums import enum_to_proto
from services.orchestrator.domain.crew import RecallMode, RecallSpec

_MOST_CHOSEN = 200
"""Results that a search can choose from, where it does more than compare vectors."""


def recalling(request: memory_pb2.SearchRecordsRequest, recall: RecallSpec) -> memory_pb2.SearchRecordsRequest:
    """Return a request that searches as a crew wants it; one that has no text finds by its vector."""
    if request.HasField("text"):
        request.mode = enum_to_proto(memory_pb2.SearchMode, recall.mode)
        if recall.mode is RecallMode.TEXT:
            request.ClearField("min_score")
    if recall.diversity is not None:
        request.diversity = recall.diversity
    if recall.diversity is not None or request.mode == memory_pb2.SEARCH_MODE_HYBRID:
        request.limit = min(request.limit, _MOST_CHOSEN)
    return request
