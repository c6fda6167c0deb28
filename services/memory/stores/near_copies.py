"""Searches for what the records of a save may be near-copies of."""

from collections.abc import Iterator, Sequence

from services.memory.domain.filters import Comparison, Condition, Filter
from services.memory.domain.owners import owner_of
from services.memory.domain.records import Record
from services.memory.domain.searches import Query
from services.memory.rows import setting_columns

_CANDIDATES = 8
"""Searches look at so many: earlier records of the same save may have changed the nearest ones."""


def queries_for(records: Sequence[Record], similarity: float) -> Iterator[Query]:
    """Yield the searches that find what records without an id may be near-copies of."""
    for record in records:
        if not record.id and record.embedding is not None:
            yield Query(
                vector=record.embedding,
                limit=_CANDIDATES,
                filter=_filter_of(record),
                min_score=similarity,
                include_embeddings=True,
            )


def _filter_of(record: Record) -> Filter:
    """Return a filter that leaves few but near-copies of a record; `setting_of` decides."""
    conditions = (Condition(name, Comparison.EQUAL, (value,)) for name, value in setting_columns(record.body).items())
    # Of public records, a filter without an owner lets no private ones through.
    return Filter(conditions=tuple(conditions), owner=owner_of(record) or "")
