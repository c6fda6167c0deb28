"""What is checked of records before they are saved."""

from collections.abc import Sequence

from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.stores.base import MemoryStore

_MOST_COMPARED = 100
"""Records of a save for each of which near-copies are looked for."""


def check_kinds(kind: MemoryKind, records: Sequence[Record], near_copies: float) -> None:
    """Refuse records that are not of the namespace's kind, or too many to look for near-copies of each.

    Raises:
        InvalidArgument: it names the record.
    """
    if near_copies and len(records) > _MOST_COMPARED:
        raise InvalidArgument.field(
            "records",
            f"has {len(records)} records; with near_copy_similarity send at most {_MOST_COMPARED} at once",
        )
    for position, record in enumerate(records):
        if record.kind is not kind:
            raise InvalidArgument.field(
                f"records[{position}]", f"is a {record.kind.name} record; the namespace holds {kind.name} records"
            )


def check_revisions(store: MemoryStore, records: Sequence[Record]) -> None:
    """Refuse expected revisions where the store cannot compare them.

    Raises:
        FailedPrecondition: the records have some.
    """
    if not store.compares_revisions and any(record.expected_revision is not None for record in records):
        raise FailedPrecondition(
            "the group's memory backend cannot compare and set: leave expected_revision out, or keep these "
            "memories in the default store",
            reason="INVALID_FIELD",
            violations=(FieldViolation("records", "expected_revision is not possible with the active backend"),),
        )


async def count_replaced(store: MemoryStore, key: NamespaceKey, records: Sequence[Record]) -> int:
    """Return how many of the records are there by their ids."""
    ids = list({record.id for record in records if record.id})
    return len(await store.get(key, ids, utc_now(), embeddings=False)) if ids else 0
