"""How a crew's memories are searched for, by its agents and by the tool of the host alike."""

import re
import unicodedata

from coxswain.memory.v1 import memory_pb2
from services.common.grpc.enums import enum_to_proto
from services.orchestrator.domain.crew import RecallMode, RecallSpec

MOST_CHOSEN = 200
"""Results that a search can choose from, where it does more than compare vectors."""
_WORD = re.compile(r"\w")


def recalling(request: memory_pb2.SearchRecordsRequest, recall: RecallSpec) -> memory_pb2.SearchRecordsRequest:
    """Return a request that searches as a crew wants it; one that has no text finds by its vector."""
    if request.HasField("text"):
        request.mode = enum_to_proto(memory_pb2.SearchMode, recall.mode)
        if recall.mode is RecallMode.TEXT:
            request.ClearField("min_score")
    if recall.diversity is not None:
        request.diversity = recall.diversity
    if chooses(request):
        request.limit = min(request.limit, MOST_CHOSEN)
    return request


def chooses(request: memory_pb2.SearchRecordsRequest) -> bool:
    """Return whether a search does more than compare vectors, and so finds no more than `MOST_CHOSEN` at once."""
    return request.HasField("diversity") or request.mode == memory_pb2.SEARCH_MODE_HYBRID


def looks_for_nothing(request: memory_pb2.SearchRecordsRequest) -> bool:
    """Return whether a search by words alone has none to look for, which the memory service refuses.

    Words have letters, digits or underscores, also those that a sign stands for, such as the one of trade marks.
    """
    if request.mode != memory_pb2.SEARCH_MODE_TEXT:
        return False
    return _WORD.search(unicodedata.normalize("NFKD", request.text)) is None
