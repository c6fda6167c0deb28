"""Exports and imports as messages."""

from coxswain.memory.v1 import memory_pb2 as pb
from services.memory.domain.saves import SaveOutcome
from services.memory.usecases.transfers import ImportProgress, Origin


def origin_to_proto(origin: Origin) -> pb.ExportRecordsResponse:
    """Return the first response of an export."""
    return pb.ExportRecordsResponse(
        origin=pb.ExportOrigin(
            embedding_model=origin.space.model if origin.space else "",
            embedding_dimension=origin.space.dimension if origin.space else 0,
            record_count=origin.tally.count,
            at_least=origin.tally.at_least,
        )
    )


def progress_to_proto(progress: ImportProgress) -> pb.ImportRecordsResponse:
    """Return the response after a message of an import."""
    outcomes = progress.outcomes
    return pb.ImportRecordsResponse(
        messages=progress.messages,
        created=outcomes[SaveOutcome.CREATED],
        replaced=outcomes[SaveOutcome.REPLACED],
        existing=outcomes[SaveOutcome.EXISTING],
    )
