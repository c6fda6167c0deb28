"""A plain model of a store of memories, random operations on it, and the comparison of stores with it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from services.common.errors import PermissionDenied
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
)
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Query
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.rows.building import build_row
from services.memory.stores.base import MemoryStore

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SPACE = EmbeddingSpace("test/embed", 3)
KEYS = [
    NamespaceKey(group, crew, MemoryKind.UNIFIED) for group, crew in (("sales", "a"), ("sales", "b"), ("legal", "a"))
]

IDS = st.sampled_from(["r1", "r2", "r3", "r4", "r5"])
WORDS = st.sampled_from(["alpha", "Beta gamma", "ß and ss", 'quote " and %', "été"])
SCOPES = st.sampled_from(["/", "/a", "/a/b", "/ab", "/a_"])
CATEGORIES = st.lists(st.sampled_from(["x", "y", 'x","y', "x,", "]", "É"]), max_size=3).map(tuple)
METADATA = st.sampled_from(["{}", '{"t":1}', '{"t":"1"}', '{"t":1.0,"u":[1,{"b":2}]}', '{"t":"1\\"","u":null}'])
VECTORS = st.sampled_from([(1, 0, 0), (0, 1, 0), (1, 1, 0), (-1, 0, 1), (0.3, 0.2, 0.1)])
RECORDS = st.builds(
    lambda record_id, vector, metadata, age, body: Record(
        id=record_id,
        body=body,
        embedding=unit_vector(vector),
        metadata=metadata,
        created_at=NOW - timedelta(hours=age),
    ),
    IDS,
    VECTORS,
    METADATA,
    st.integers(0, 3),
    st.builds(
        Unified,
        content=WORDS,
        scope=SCOPES,
        categories=CATEGORIES,
        importance=st.sampled_from([0.0, 0.5, 0.25]),
        source=st.sampled_from(["", "alice", "bob"]),
        private=st.booleans(),
        last_accessed=st.none() | st.just(NOW),
    ),
)
CONDITION = st.one_of(
    st.builds(
        lambda comparison, value: Condition("content", comparison, (value,)),
        st.sampled_from(
            [c for c in Comparison if c is not Comparison.CONTAINS],
        ),
        st.sampled_from(["alpha", "Beta", "ß", "", "z", "Alpha", "été", "%"]),
    ),
    st.builds(lambda value: Condition("content", Comparison.CONTAINS, (value,)), st.sampled_from(["SS", "gamma"])),
    st.builds(
        lambda comparison, value: Condition("importance", comparison, (value,)),
        st.sampled_from(
            [Comparison.EQUAL, Comparison.NOT_EQUAL, Comparison.LESS, Comparison.GREATER_OR_EQUAL],
        ),
        st.sampled_from([0.25, 0.5]),
    ),
    st.builds(
        lambda comparison: Condition("last_accessed", comparison, (NOW,)),
        st.sampled_from([Comparison.EQUAL, Comparison.NOT_EQUAL, Comparison.LESS_OR_EQUAL]),
    ),
    st.just(Condition("private", Comparison.EQUAL, (True,))),
)
CONDITIONS = st.lists(CONDITION, max_size=2).map(tuple)
METADATA_PATHS = st.sampled_from([("t",), ("u",), ("u", "b"), ("v",)])
JSON_VALUES = st.sampled_from([1, 1.0, "1", True, None, [1, {"b": 2.0}], {"b": 2}, {}, 0, '1"'])
METADATA_CONDITION = st.one_of(
    st.builds(
        lambda path, comparison, values: MetadataCondition(path, comparison, tuple(values)),
        METADATA_PATHS,
        st.sampled_from([MetadataComparison.EQUAL, MetadataComparison.NOT_EQUAL, MetadataComparison.CONTAINS]),
        st.lists(JSON_VALUES, min_size=1, max_size=2),
    ),
    st.builds(
        lambda path, comparison, bound: MetadataCondition(path, comparison, (bound,)),
        METADATA_PATHS,
        st.sampled_from([MetadataComparison.LESS, MetadataComparison.LESS_OR_EQUAL, MetadataComparison.GREATER]),
        st.sampled_from([0, 1, 1.5, "1", "2"]),
    ),
    st.builds(lambda path: MetadataCondition(path, MetadataComparison.EXISTS), METADATA_PATHS),
)
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    CONDITION | METADATA_CONDITION,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        st.lists(parts, min_size=1, max_size=3).map(lambda some: AllOf(tuple(some))),
        st.lists(parts, min_size=1, max_size=3).map(lambda some: AnyOf(tuple(some))),
    ),
    max_leaves=5,
)
FILTERS = st.builds(
    Filter,
    conditions=CONDITIONS,
    scope_prefix=st.sampled_from(["", "", "/", "/a", "/a_"]),
    categories=st.frozensets(st.sampled_from(["x", "x,", ",", "É", 'x","y']), max_size=2),
    metadata=st.sampled_from([{}, {}, {"t": "1"}, {"t": '"1"'}, {"u": '[1,{"b":2}]'}, {"u": "null"}, {"t": "1.0"}]),
    all_categories=st.frozensets(st.sampled_from(["x", "y", "É"]), max_size=2),
    created_before=st.none() | st.sampled_from([NOW, NOW - timedelta(hours=1, microseconds=-1)]),
    created_after=st.none()
    | st.sampled_from([NOW, NOW - timedelta(hours=1), NOW - timedelta(hours=1, microseconds=-1)]),
    expression=st.none() | EXPRESSIONS,
    source=st.sampled_from(["", "alice"]),
    owner=st.sampled_from(["", "agent:alice", "agent:bob"]),
    include_private=st.booleans(),
)
STORE = st.integers(0, 2)
"""Which of the stores an operation is done by, of as many as there are."""
KEY = st.sampled_from(KEYS)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), STORE, KEY, st.lists(RECORDS, min_size=1, max_size=3)),
        st.tuples(st.just("delete"), STORE, KEY, st.lists(IDS, min_size=1, max_size=2), st.none() | FILTERS),
        st.tuples(st.just("filter"), STORE, KEY, FILTERS),
        st.tuples(st.just("clear"), STORE, KEY),
        st.tuples(st.just("touch"), STORE, KEY, st.lists(IDS, max_size=2)),
    ),
    max_size=7,
)

Model = dict[NamespaceKey, dict[str, Record]]


def matches(key: NamespaceKey, chosen: Filter, record: Record) -> bool:
    """Return whether a record is what a filter asks for."""
    assert record.created_at is not None
    if chosen.created_before is not None and record.created_at >= chosen.created_before:
        return False
    if chosen.created_after is not None and record.created_at < chosen.created_after:
        return False
    return filters.matches(key.kind, chosen, build_row(key, record, SPACE.model))


def _replaces_foreign(rows: Mapping[str, Record], new: Sequence[Record]) -> bool:
    """Return whether one of the records would replace a private one of somebody else."""
    there = dict(rows)
    for record in new:
        before = there.get(record.id)
        if before is not None and (owner := owner_of(before)) is not None and owner != record.owner:
            return True
        there[record.id] = record
    return False


async def apply(stores: Sequence[MemoryStore], model: Model, operation: tuple[Any, ...]) -> None:
    """Do an operation with a store and with the model, and compare what it returns."""
    name, store, key = operation[0], stores[operation[1] % len(stores)], operation[2]
    rows = model[key]
    match name:
        case "save":
            if _replaces_foreign(rows, operation[3]):
                with pytest.raises(PermissionDenied):
                    await store.save(key, SPACE, operation[3], NOW)
                return
            await store.save(key, SPACE, operation[3], NOW)
            rows.update({record.id: record for record in operation[3]})
        case "delete" | "filter":
            ids = operation[3] if name == "delete" else None
            chosen = operation[4] if name == "delete" else operation[3]
            doomed = [
                record_id
                for record_id, record in rows.items()
                if (ids is None or record_id in ids) and (chosen is None or matches(key, chosen, record))
            ]
            assert await store.delete(key, ids, chosen, NOW) == len(doomed)
            for record_id in doomed:
                del rows[record_id]
        case "clear":
            assert await store.clear(key) == len(rows)
            rows.clear()
        case "touch":
            moment = NOW + timedelta(seconds=1)
            known = {record_id for record_id in operation[3] if record_id in rows}
            assert await store.touch(key, operation[3], moment) == len(known)
            for record_id in known:
                body = rows[record_id].body
                assert isinstance(body, Unified)
                body.last_accessed = moment


def plain(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    """Return what of records can be compared."""
    return [(r.id, r.body, r.metadata, r.created_at) for r in records]


async def check(
    stores: Sequence[MemoryStore], model: Model, chosen: Filter, vector: Any, *, namespaces: bool = True
) -> None:
    """Compare all a store tells with the model."""
    for key, rows in model.items():
        expected = [record for record in rows.values() if matches(key, chosen, record)]
        expected.sort(key=lambda r: (microseconds(r.created_at or NOW), key.stored_id(r.id)), reverse=True)
        for store in stores:
            listed: list[Record] = []
            after = None
            while True:
                page = await store.page(key, chosen, 2, after, NOW, embeddings=False)
                listed.extend(page.records)
                if not page.more:
                    break
                last = page.records[-1]
                assert last.created_at is not None
                after = ListPosition(microseconds(last.created_at), key.stored_id(last.id))
            assert plain(listed) == plain(expected)
            assert (await store.count(key, chosen, NOW)).count == len(expected)
            everything = await store.get(key, list(rows), NOW, embeddings=True)
            assert plain(everything) == plain(list(rows.values()))
            for limit in (2, 10):
                found = (await store.search(key, Query(unit_vector(vector), limit, chosen), NOW)).results
                best = sorted(-float(np.dot(r.embedding, unit_vector(vector))) for r in expected)[:limit]  # type: ignore[arg-type]
                np.testing.assert_allclose([f.score for f in found], [-score for score in best], atol=2e-6)
                assert {f.record.id for f in found} <= {r.id for r in expected}
    for group in ("sales", "legal") if namespaces else ():
        infos = await stores[0].namespaces(group, 10, None)
        assert {i.key for i in infos} <= {key for key in KEYS if key.group_id == group}
        assert {i.key: i.record_count for i in infos if i.record_count} == {
            key: len(rows) for key, rows in model.items() if rows and key.group_id == group
        }
