"""Rows that something else has written into an index: an older backend, another program, a person."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.memory.domain.filters import EVERYTHING, Comparison, Condition, Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Query, Ranking
from services.memory.domain.vectors import unit_vector
from services.memory.rows.building import build_row
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.rows.parsing import UnreadableRow, parse_row, unreadable
from services.memory.servicers.messages.records import record_to_proto
from services.memory.stores.databricks.row_checks import passes
from tests.integration.memory.databricks_parts import (
    INDEX,
    KEY,
    SHORT,
    EndpointType,
    emulator,
    open_store,
    unified_records,
    workspace_client,
)
from tests.integration.memory.store_model import NOW, SPACE
from tests.support.vector_search_emulator import VectorSearchEmulator

VECTOR = unit_vector([1, 0, 0])
EVERY = Query(VECTOR, 50, EVERYTHING)
PLAIN: Mapping[str, Any] = {
    "id": "plain-1",
    "crew_id": "a",
    "group_id": "sales",
    "content": "foreign",
    "metadata": "{}",
    "created_at": "2026-01-02T03:04:05Z",
    "embedding": [1.0, 0.0, 0.0],
}


COLUMNS = DatabricksIndexSchemas.get_schema("unified")
SHORT_COLUMNS = DatabricksIndexSchemas.get_schema("short_term")


def put(vectors: VectorSearchEmulator, row: Mapping[str, Any], index: str = INDEX) -> None:
    """Write a row as another program does: past the service, and past what the schema would refuse."""
    vectors._indexes[index].table.put(dict(row))


@pytest.mark.parametrize("endpoint_type", ["STANDARD", "STORAGE_OPTIMIZED"])
@pytest.mark.parametrize("row_id", ["plain-1", "it's"])
async def test_a_row_without_an_envelope_is_a_record_whose_id_is_its_primary_key(
    endpoint_type: EndpointType, row_id: str
) -> None:
    with emulator(endpoint_type) as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(1), NOW)
            put(vectors, {**PLAIN, "id": row_id})
            for chosen in (EVERYTHING, Filter()):
                found = await store.search(KEY, Query(VECTOR, 5, chosen), NOW)
                assert {hit.record.id for hit in found.results} == {"r0", row_id}
            page = await store.page(KEY, EVERYTHING, 5, None, NOW, embeddings=True)
            assert [(record.id, record.embedding is not None) for record in page.records] == [
                ("r0", True),
                (row_id, True),
            ]
            (record,) = await store.get(KEY, [row_id], NOW, embeddings=False)
            assert (record.id, record.body, record.metadata) == (row_id, Unified("foreign"), "{}")
            assert await store.touch(KEY, [row_id], NOW) == 1
            (record,) = await store.get(KEY, [row_id], NOW, embeddings=True)
            assert isinstance(record.body, Unified)
            assert record.body.last_accessed == NOW
            assert (await store.count(KEY, EVERYTHING, NOW)).count == 2
            assert await store.delete(KEY, [row_id], None, NOW) == 1
            assert [row["id"] for row in vectors.rows(INDEX)] == [KEY.stored_id("r0")]


async def test_saving_under_the_id_of_such_a_row_replaces_it() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            put(vectors, PLAIN)
            await store.save(KEY, SPACE, [Record("plain-1", Unified("new"), VECTOR)], NOW)
            found = await store.search(KEY, EVERY, NOW)
            assert [(hit.record.id, hit.record.text) for hit in found.results] == [("plain-1", "new")]
            assert [row["id"] for row in vectors.rows(INDEX)] == ["plain-1"]
            assert await store.delete(KEY, ["plain-1"], None, NOW) == 1
            assert vectors.rows(INDEX) == []


async def test_touching_such_a_row_keeps_what_cannot_be_read_of_it() -> None:
    odd = {**PLAIN, "metadata": "not json", "categories": "x, y", "tools_used": "[", "scope": None, "importance": 0.5}
    with emulator() as vectors:
        async with workspace_client() as client:
            put(vectors, odd)
            assert await open_store(client, vectors.url).touch(KEY, ["plain-1"], NOW) == 1
        (row,) = vectors.rows(INDEX)
        assert {name: row[name] for name in odd} == odd
        assert row["last_accessed"]


@pytest.mark.parametrize(
    "spoilt", [{"embedding": [float("nan"), 0.0, 0.0]}, {"importance": float("inf")}, {"scope": [float("nan")]}]
)
async def test_touching_leaves_rows_alone_that_cannot_be_written_again(spoilt: Mapping[str, Any]) -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            put(vectors, PLAIN)
            put(vectors, {**PLAIN, "id": "spoilt", **spoilt})
            assert await open_store(client, vectors.url).touch(KEY, ["spoilt", "plain-1"], NOW) == 1
        assert [row["id"] for row in vectors.rows(INDEX) if row.get("last_accessed")] == ["plain-1"]


async def test_an_envelope_is_believed_only_where_the_primary_key_was_made_from_its_id() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            put(vectors, {**PLAIN, "id": "whatever", "metadata": '{"_coxswain":{"id":"mine"},"k":1}'})
            own = build_row(KEY, unified_records(1)[0], "m")
            other = NamespaceKey("sales", "b", MemoryKind.UNIFIED).stored_id("r0")
            put(vectors, {**PLAIN, "id": other, "metadata": own["metadata"]})
            found = await store.search(KEY, EVERY, NOW)
            assert {hit.record.id for hit in found.results} == {"whatever", other}
            assert await store.get(KEY, ["mine", "r0"], NOW, embeddings=False) == []
            got = await store.get(KEY, ["whatever", other], NOW, embeddings=False)
            assert [(record.id, record.metadata) for record in got] == [("whatever", '{"k":1}'), (other, "{}")]
            assert await store.delete(KEY, ["whatever", other], None, NOW) == 2
        assert vectors.rows(INDEX) == []


HALF_A_CHARACTER = "\ud800"
ODD_VALUES: list[Any] = [None, "", "not json", "x, y", "[", "{}", "null", "[1]", 7, 0.5, True, 2**70, "a\0b"]
ODD_VALUES.append(HALF_A_CHARACTER)
OWNERS = ("id", "group_id", "crew_id", "embedding")


@pytest.mark.parametrize(
    "column", [name for name in DatabricksIndexSchemas.get_schema("unified") if name not in OWNERS]
)
async def test_no_value_of_a_column_decides_over_other_rows(column: str) -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await store.save(KEY, SPACE, unified_records(1), NOW)
            for n, value in enumerate(ODD_VALUES):
                put(vectors, {**PLAIN, "id": f"odd-{n}", column: value})
            ranked = Ranking(1, 1, 1, 30)
            searches = [
                EVERY,
                Query(VECTOR, 50, Filter(categories=frozenset({"nothing"}), include_private=True)),
                Query(VECTOR, 50, Filter(created_before=NOW, include_private=True)),
                Query(VECTOR, 50, EVERYTHING, ranking=ranked, asked_at=NOW),
            ]
            found = [await store.search(KEY, query, NOW) for query in searches]
            assert "r0" in {hit.record.id for hit in found[0].results}
            shown = {hit.record.id for hit in found[0].results}
            page = await store.page(KEY, EVERYTHING, 50, None, NOW, embeddings=False)
            assert {record.id for record in page.records} == shown
            assert page.unreadable == found[0].unreadable == len(vectors.rows(INDEX)) - len(shown)
            assert (page.unreadable > 0) == (column == "content")
            got = await store.get(KEY, sorted(shown), NOW, embeddings=False)
            assert {record.id for record in got} == shown
            await store.scope_rows(KEY, "/", NOW)
            # Also what cannot be read is removed by its primary key.
            keys = [row["id"] for row in vectors.rows(INDEX) if row["id"] != KEY.stored_id("r0")]
            await store.delete(KEY, keys, None, NOW)
        assert [row["id"] for row in vectors.rows(INDEX)] == [KEY.stored_id("r0")]


async def test_pages_go_on_past_rows_that_cannot_be_read() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            for n in range(6):
                put(vectors, {**PLAIN, "id": f"row-{n}", "content": "" if n in (2, 3) else "text"})
            ids, unread, after = list[str](), 0, None
            while True:
                page = await store.page(KEY, EVERYTHING, 2, after, NOW, embeddings=False)
                ids += [record.id for record in page.records]
                unread += page.unreadable
                if not page.more:
                    break
                after = page.last
            assert (ids, unread) == (["row-5", "row-4", "row-1", "row-0"], 2)
            found = await store.search(KEY, Query(VECTOR, 4, EVERYTHING), NOW)
            assert ([hit.record.id for hit in found.results], found.unreadable) == (
                ["row-0", "row-1", "row-4", "row-5"],
                2,
            )


async def test_a_short_term_row_that_does_not_say_when_it_ends_does_not_end() -> None:
    key = NamespaceKey("sales", "a", MemoryKind.SHORT_TERM)
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            cases: dict[str, dict[str, Any]] = {
                "ends": {"ttl_hours": 1},
                "lives": {"ttl_hours": None},
                "zero": {"ttl_hours": 0},
                "timeless": {"ttl_hours": 1, "created_at": None},
            }
            for row_id, values in cases.items():
                row = {name: value for name, value in PLAIN.items() if name in SHORT_COLUMNS}
                put(vectors, {**row, "id": row_id, **values}, SHORT)
            found = await store.search(key, EVERY, NOW)
            assert {hit.record.id for hit in found.results} == {"lives", "zero", "timeless"}


@pytest.mark.parametrize("kind", list(MemoryKind))
@given(st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_a_row_holds_it_is_a_record_or_unreadable(kind: MemoryKind, data: st.DataObject) -> None:
    value: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3)
    )
    value |= st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=3), max_size=2)
    value |= st.sampled_from(['{"_coxswain":{"id":1}}', '{"_coxswain":[]}', '{"relationships":[["a"],{"type":1}]}'])
    names = list(DatabricksIndexSchemas.get_schema(kind))
    row = data.draw(st.dictionaries(st.sampled_from(names), value))
    row |= data.draw(st.sampled_from([{}, {"id": "a", "content": "text", "entity_name": "x"}]))
    if unreadable(kind, row):
        with pytest.raises(UnreadableRow):
            parse_row(kind, row)
        return
    record = parse_row(kind, row)
    assert record.id == row["id"]
    # What is read can be sent.
    assert record_to_proto(record).SerializeToString()


def test_conditions_hold_for_odd_values_only_where_these_are_of_their_type() -> None:
    values = {"text": "high", "none": None, "half": 0.5, "list": [1], "true": True}
    for comparison, ids in (
        (Comparison.GREATER, ["half"]),
        (Comparison.NOT_EQUAL, sorted(values)),
        (Comparison.EQUAL, []),
    ):
        chosen = Filter((Condition("importance", comparison, (0.25,)),), include_private=True)
        met = [name for name, value in values.items() if passes(KEY.kind, chosen, {**PLAIN, "importance": value}, NOW)]
        assert sorted(met) == ids, comparison
    starts = Filter((Condition("source", Comparison.STARTS_WITH, ("4",)),), include_private=True)
    assert passes(KEY.kind, starts, {**PLAIN, "source": 42}, NOW)
