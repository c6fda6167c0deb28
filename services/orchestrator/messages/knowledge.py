"""What agents know besides: messages to domain and back, and where memories among it are looked up."""

from collections.abc import Iterable, Sequence

from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.orchestrator.v1 import crew_pb2
from services.common.grpc.enums import enum_to_proto
from services.orchestrator.domain.crew import KnowledgeMemory, KnowledgeSpec, MemoryKind

# What rules of the protos refuse is read as the default: crews with faults are read too.
_MEMORY_KINDS = {int(enum_to_proto(record_pb2.MemoryKind, kind)): kind for kind in MemoryKind}


def knowledge_from_proto(messages: Iterable[crew_pb2.KnowledgeSpec]) -> tuple[KnowledgeSpec, ...]:
    """Return the knowledge of a crew or of an agent."""
    return tuple(
        KnowledgeSpec(message.name, memory=_knowledge_memory_from_proto(message.memory))
        if message.WhichOneof("source") == "memory"
        else KnowledgeSpec(message.name, message.content)
        for message in messages
    )


def _knowledge_memory_from_proto(message: crew_pb2.KnowledgeMemory) -> KnowledgeMemory:
    kind = _MEMORY_KINDS.get(message.kind, MemoryKind.UNIFIED)
    return KnowledgeMemory(message.memory_id, kind, message.scope, tuple(message.document_ids))


def knowledge_to_proto(sources: Iterable[KnowledgeSpec]) -> list[crew_pb2.KnowledgeSpec]:
    """Return knowledge as callers see it."""
    return [
        crew_pb2.KnowledgeSpec(name=source.name, content=source.content)
        if source.memory is None
        else crew_pb2.KnowledgeSpec(name=source.name, memory=_knowledge_memory_to_proto(source.memory))
        for source in sources
    ]


def _knowledge_memory_to_proto(memory: KnowledgeMemory) -> crew_pb2.KnowledgeMemory:
    kind = enum_to_proto(record_pb2.MemoryKind, memory.kind)
    return crew_pb2.KnowledgeMemory(
        memory_id=memory.memory_id, kind=kind, scope=memory.scope, document_ids=memory.document_ids
    )


def records_filter(scope: str, document_ids: Sequence[str]) -> memory_pb2.RecordFilter:
    """Return the filter of records within a scope, or of some documents; empty means all."""
    made = memory_pb2.RecordFilter(scope_prefix=scope)
    if document_ids:
        values = [record_pb2.ConditionValue(text=one) for one in document_ids]
        made.conditions.add(column="parent_document_id", values=values)
    return made


def knowledge_namespace(memory: KnowledgeMemory) -> memory_pb2.Namespace:
    """Return where the records of a memory that agents look things up in are kept."""
    return memory_pb2.Namespace(memory_id=memory.memory_id, kind=enum_to_proto(record_pb2.MemoryKind, memory.kind))
