"""Searches for what the records of a save may be near-copies of."""

from collections.abc import Iterator, Sequence

from services.memory.domain.filters import Comparison, Condition, Filter
from services.memory.domain.owners import owner_of
from services.memory.domain.records import Record
from services.memory.domain.searches import Query
from services.memory.rows.building import setting_columns

_CANDIDATES = 8
"""Searches look at so many: earlier records of the same save may have changed the nearest ones."""


def queries_for(records: Sequence[Record], similarity: float) -> Iterator[Query]:
    """Yield the searches that find what records without an id may be near-copies of, those of one filter together."""
    for chosen, compared in _by_filter(records):
        for record in compared:
            assert record.embedding is not None
            yield Query(
                vector=record.embedding,
                limit=_CANDIDATES,
                filter=chosen,
                min_score=similarity,
                include_embeddings=True,
            )


def filters_for(records: Sequence[Record]) -> Sequence[Filter]:
    """Return the filters of `queries_for`: whatever a record may be a near-copy of, one of them lets through."""
    return [chosen for chosen, _ in _by_filter(records)]


def _by_filter(records: Sequence[Record]) -> Sequence[tuple[Filter, Sequence[Record]]]:
    """Return filters that leave few but near-copies of records, each with its records; `setting_of` decides."""
    compared: dict[tuple[tuple[Condition, ...], str], list[Record]] = {}
    for record in records:
        if not record.id and record.embedding is not None:
            columns = setting_columns(record.body).items()
            conditions = tuple(Condition(name, Comparison.EQUAL, (value,)) for name, value in columns)
            # Of public records, a filter without an owner lets no private ones through.
            compared.setdefault((conditions, owner_of(record) or ""), []).append(record)
    return [(Filter(conditions=conditions, owner=owner), some) for (conditions, owner), some in compared.items()]
