"""Typed filters of every kind, column and operator on each store, against the meaning that no database decides."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from services.common.db.database import Database
from services.common.errors import InvalidArgument
from services.common.visible_text import has_visible_text
from services.memory import filters
from services.memory.domain.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Expression,
    Filter,
    MetadataComparison,
    MetadataCondition,
    Not,
    Scalar,
)
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import (
    Body,
    Document,
    Entity,
    LongTerm,
    MemoryKind,
    Record,
    Relationship,
    ShortTerm,
    Unified,
)
from services.memory.domain.searches import Query
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.rows.building import build_row
from services.memory.rows.columns import DatabricksIndexSchemas, FieldType
from services.memory.stores.base import MemoryStore
from services.memory.stores.sql.store import SqlMemoryStore
from tests.support.service_tables import make_service_tables

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SPACE = EmbeddingSpace("test/embed", 3)

TEXTS = [
    "",
    "a",
    "A",
    "ab",
    "a%",
    "a_",
    "%",
    "_",
    "\\",
    "'",
    '"',
    "ß",
    "ss",
    "é",
    "e\u0301",
    "Z",
    "z",
    "a b",
    "\U0001f600",
    "\uffff",
    "日本語",
    " a",
    "a\nb",
]
NUMBERS = [float(np.float32(value)) for value in (0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0)]
INTEGERS = [0, 1, 2, 2**31 - 1]
MOMENTS = [NOW - timedelta(hours=1), NOW - timedelta(microseconds=1), NOW, NOW + timedelta(days=3000)]

METADATA_CONDITIONS = [
    MetadataCondition(("é",), MetadataComparison.EQUAL, ("%", 1)),
    MetadataCondition(("é",), MetadataComparison.NOT_EQUAL, ("%",)),
    MetadataCondition(("a",), MetadataComparison.EXISTS),
    MetadataCondition(("a", "b"), MetadataComparison.CONTAINS, (None,)),
    MetadataCondition(("a", "b"), MetadataComparison.EQUAL, ([1.0, None],)),
    MetadataCondition(("a",), MetadataComparison.GREATER, ("\\",)),
    MetadataCondition(("a",), MetadataComparison.LESS_OR_EQUAL, ("\\",)),
]
# A record without any is none.
VISIBLE = [text for text in TEXTS if has_visible_text(text)]

BODIES: Mapping[MemoryKind, Callable[[random.Random], Body]] = {
    MemoryKind.UNIFIED: lambda r: Unified(
        content=r.choice(VISIBLE),
        scope="/" + r.choice(["", "a", "a/b", "%", "é"]),
        categories=tuple(r.sample(TEXTS, 2)),
        importance=r.choice(NUMBERS),
        source=r.choice(TEXTS),
        private=r.random() < 0.3,
        last_accessed=r.choice([None, *MOMENTS]),
        session_id=r.choice(TEXTS),
    ),
    MemoryKind.SHORT_TERM: lambda r: ShortTerm(
        content=r.choice(VISIBLE),
        query_text=r.choice(TEXTS),
        session_id=r.choice(TEXTS),
        interaction_sequence=r.choice([*INTEGERS, -(2**63), 2**63 - 1]),
        ttl_hours=r.choice([1, 87600]),
    ),
    MemoryKind.LONG_TERM: lambda r: LongTerm(
        content=r.choice(VISIBLE),
        task_description=r.choice(TEXTS),
        quality=r.choice(NUMBERS),
        importance=r.choice(NUMBERS),
        last_accessed=r.choice([None, *MOMENTS]),
    ),
    MemoryKind.ENTITY: lambda r: Entity(
        entity_name=r.choice(VISIBLE),
        entity_type=r.choice(TEXTS),
        description=r.choice(TEXTS),
        relationships=(Relationship(r.choice(TEXTS), r.choice(TEXTS)),),
    ),
    MemoryKind.DOCUMENT: lambda r: Document(
        content=r.choice(VISIBLE),
        title=r.choice(TEXTS),
        source=r.choice(TEXTS),
        chunk_index=r.choice(INTEGERS),
        chunk_size=r.choice(INTEGERS),
        agent_ids=tuple(r.sample(TEXTS, 2)),
        updated_at=r.choice([None, *MOMENTS]),
    ),
}


def _records(kind: MemoryKind, choice: random.Random) -> list[Record]:
    return [
        Record(
            f"r{n}",
            BODIES[kind](choice),
            unit_vector([1, n % 5, 1]),
            agent_id=choice.choice(TEXTS),
            tools_used=(choice.choice(TEXTS),),
            metadata=choice.choice(["{}", '{"é":"%"}', '{"a":{"b":[1,null]}}', '{"a":"\\\\"}']),
            created_at=choice.choice(MOMENTS),
        )
        for n in range(40)
    ]


def _value(field_type: FieldType, choice: random.Random) -> Scalar:
    match field_type:
        case FieldType.INT | FieldType.BIGINT:
            return choice.choice([*INTEGERS, -1, 2**63 - 1, -(2**63)])
        case FieldType.FLOAT:
            return choice.choice([*NUMBERS, 0.1, 1e300, -1e300, 1e-46, 1])
        case FieldType.BOOLEAN:
            return choice.random() < 0.5
        case FieldType.TIMESTAMP:
            return choice.choice(MOMENTS)
        case _:
            return choice.choice(TEXTS) if choice.random() < 0.9 else choice.choice(MOMENTS)


def _condition(kind: MemoryKind, choice: random.Random) -> Condition:
    columns = DatabricksIndexSchemas.filterable(kind)
    while True:
        column = choice.choice(sorted(columns))
        comparison = choice.choice(list(Comparison))
        count = choice.choice([1, 1, 3]) if comparison in (Comparison.EQUAL, Comparison.NOT_EQUAL) else 1
        values = [_value(columns[column], choice) for _ in range(count)]
        try:
            return filters.check_condition(kind, column, comparison, values, "filter.conditions[0]")
        except InvalidArgument:
            # What does not fit the column is refused at the door.
            continue


def _expression(kind: MemoryKind, choice: random.Random, depth: int = 0) -> Expression:
    shape = choice.choice(["all", "any", "not", "column", "metadata"] if depth < 3 else ["column", "metadata"])
    match shape:
        case "all" | "any":
            parts = tuple(_expression(kind, choice, depth + 1) for _ in range(choice.choice([1, 2, 3])))
            return AllOf(parts) if shape == "all" else AnyOf(parts)
        case "not":
            return Not(_expression(kind, choice, depth + 1))
        case "column":
            return _condition(kind, choice)
        case _:
            return choice.choice(METADATA_CONDITIONS)


def _filter(kind: MemoryKind, choice: random.Random) -> Filter:
    unified = kind is MemoryKind.UNIFIED
    return Filter(
        conditions=tuple(_condition(kind, choice) for _ in range(choice.choice([0, 1, 1, 1, 2]))),
        scope_prefix=choice.choice(["", "", "/", "/a", "/%"]) if unified else "",
        categories=frozenset(choice.sample(TEXTS, choice.choice([0, 0, 2]))) if unified else frozenset(),
        metadata=choice.choice([{}, {}, {}, {"é": '"%"'}, {"a": '{"b":[1,null]}'}, {"a": '"\\\\"'}]),
        all_categories=frozenset(choice.sample(TEXTS, choice.choice([0, 0, 0, 1]))) if unified else frozenset(),
        created_before=choice.choice([None, None, None, *MOMENTS]),
        created_after=choice.choice([None, None, None, *MOMENTS]),
        expression=_expression(kind, choice) if choice.random() < 0.5 else None,
        source=choice.choice(TEXTS[:3]) if unified else "",
        owner=choice.choice(["", *(f"agent:{text}" for text in TEXTS)]) if unified else "",
        include_private=not unified or choice.random() < 0.7,
    )


def _expected(key: NamespaceKey, chosen: Filter, records: list[Record]) -> set[str]:
    found = set()
    for record in records:
        assert record.created_at is not None
        if isinstance(record.body, ShortTerm) and record.created_at + timedelta(hours=record.body.ttl_hours) <= NOW:
            continue
        if chosen.created_before is not None and record.created_at >= chosen.created_before:
            continue
        if chosen.created_after is not None and record.created_at < chosen.created_after:
            continue
        if filters.matches(key.kind, chosen, build_row(key, record, SPACE.model)):
            found.add(record.id)
    return found


@asynccontextmanager
async def _stores(url: str) -> AsyncIterator[list[MemoryStore]]:
    """One that remembers and one that scans."""
    make_service_tables("memory", url)
    database = Database(url, "memory")
    try:
        yield [SqlMemoryStore(database, cache_bytes=size, cached_namespace_bytes=size) for size in (1 << 20, 0)]
    finally:
        await database.close()


@pytest.mark.parametrize("kind", MemoryKind)
async def test_every_filter_means_the_same_to_lists_searches_counts_and_removals(
    database_url: str, kind: MemoryKind
) -> None:
    choice = random.Random(f"filters of {kind.name}")
    key = NamespaceKey("sales", "" if kind is MemoryKind.DOCUMENT else "crew", kind)
    records = _records(kind, choice)
    async with _stores(database_url) as (remembering, scanning):
        await remembering.save(key, SPACE, records, NOW)
        query = unit_vector([1, 2, 3])
        answers: set[int] = set()
        for _ in range(150):
            chosen = _filter(kind, choice)
            expected = _expected(key, chosen, records)
            answers.add(len(expected))
            page = await remembering.page(key, chosen, 100, None, NOW, embeddings=False)
            assert {record.id for record in page.records} == expected, chosen
            assert (await remembering.count(key, chosen, NOW)).count == len(expected), chosen
            for store in (remembering, scanning):
                found = (await store.search(key, Query(query, 100, chosen), NOW)).results
                assert {result.record.id for result in found} == expected, chosen
        assert len(answers) > 5, "filters that choose nothing prove nothing"
        left = set(await _all(remembering, key, records))
        for _ in range(8):
            chosen = _filter(kind, choice)
            doomed = _expected(key, chosen, [record for record in records if record.id in left])
            assert await remembering.delete(key, None, chosen, NOW) == len(doomed), chosen
            left -= doomed
            assert set(await _all(remembering, key, records)) == left, chosen


async def _all(store: MemoryStore, key: NamespaceKey, records: list[Record]) -> list[Any]:
    return [record.id for record in await store.get(key, [r.id for r in records], NOW, embeddings=False)]
