"""Workers and hints: domain to messages and back."""

from coxswain.orchestrator.v1 import worker_pb2
from services.orchestrator.domain.hint import Hint, HintKind


def hint_to_proto(hint: Hint) -> worker_pb2.Hint:
    """Return the message of a hint that is not RESYNC."""
    return worker_pb2.Hint(
        kind=worker_pb2.HintKind.Value(f"HINT_KIND_{hint.kind}"),
        execution_id=hint.execution_id,
        last_sequence=hint.last_sequence,
    )


def hint_from_proto(message: worker_pb2.Hint) -> Hint | None:
    """Return the hint of a message, or None for a kind this release does not know."""
    try:
        kind = HintKind(worker_pb2.HintKind.Name(message.kind).removeprefix("HINT_KIND_"))
    except ValueError:
        return None
    return Hint(kind, message.execution_id, message.last_sequence)
