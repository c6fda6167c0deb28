"""What crews remember: messages to domain and back."""

from dataclasses import asdict
from typing import Any

from coxswain.memory.v1 import memory_pb2
from coxswain.orchestrator.v1 import crew_pb2
from services.common.grpc.enums import enum_to_proto
from services.orchestrator.domain.crew import ConsolidationSpec, MemorySpec, RecallMode, RecallSpec

# What rules of the protos refuse is read as the default: crews with faults are read too.
_MODES = {int(enum_to_proto(memory_pb2.SearchMode, mode)): mode for mode in RecallMode}


def memory_from_proto(message: crew_pb2.MemorySpec) -> MemorySpec:
    """Return what a crew remembers, with the defaults the wire promises filled in."""
    return MemorySpec(
        enabled=message.enabled,
        embedding_model=message.embedding_model,
        run_name=message.run_name,
        analysis=message.analysis,
        name=message.name,
        model=message.model,
        near_copy_similarity=message.near_copy_similarity,
        consolidation=ConsolidationSpec(**_given(message.consolidation)) if message.HasField("consolidation") else None,
        recall=RecallSpec(**_given(message.recall) | {"mode": _MODES.get(message.recall.mode, RecallMode.VECTOR)}),
        read_only=message.read_only,
    )


def memory_to_proto(spec: MemorySpec) -> crew_pb2.MemorySpec:
    """Return what a crew remembers as callers see it: what is left open is not filled in."""
    return crew_pb2.MemorySpec(
        enabled=spec.enabled,
        embedding_model=spec.embedding_model,
        run_name=spec.run_name,
        analysis=spec.analysis,
        name=spec.name,
        model=spec.model,
        near_copy_similarity=spec.near_copy_similarity,
        consolidation=None if spec.consolidation is None else crew_pb2.ConsolidationSpec(**asdict(spec.consolidation)),
        recall=None if spec.recall == RecallSpec() else _recall_to_proto(spec.recall),
        read_only=spec.read_only,
    )


def _recall_to_proto(recall: RecallSpec) -> crew_pb2.RecallSpec:
    # Documents stay as they were written: what is left open is not filled in.
    mode = None if recall.mode is RecallMode.VECTOR else enum_to_proto(memory_pb2.SearchMode, recall.mode)
    return crew_pb2.RecallSpec(**asdict(recall) | {"mode": mode})


def _given(message: Any) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}
