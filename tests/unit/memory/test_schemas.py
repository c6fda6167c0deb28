"""Columns of every kind, and records to rows and back."""

import ast
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory.domain.metadata import canonical_json
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import (
    Document,
    Entity,
    LongTerm,
    MemoryKind,
    Record,
    Relationship,
    ShortTerm,
    Unified,
)
from services.memory.domain.vectors import unit_vector
from services.memory.rows import columns
from services.memory.rows.building import build_row
from services.memory.rows.columns import DatabricksIndexSchemas, UnknownMemoryType
from services.memory.rows.parsing import parse_row
from services.memory.rows.values import parse_time, read_json

COLUMNS = {
    "short_term": (
        "id content query_text session_id interaction_sequence timestamp created_at ttl_hours metadata crew_id "
        "agent_id group_id llm_model tools_used embedding embedding_model version"
    ),
    "long_term": (
        "id content task_description task_hash quality importance timestamp last_accessed metadata crew_id agent_id "
        "group_id llm_model tools_used embedding embedding_model version"
    ),
    "entity": (
        "id entity_name entity_type description relationships timestamp crew_id agent_id group_id llm_model tools_used "
        "embedding embedding_model"
    ),
    "document": (
        "id title content source document_type section chunk_index chunk_size parent_document_id document_summary "
        "agent_ids created_at updated_at doc_metadata group_id embedding embedding_model version"
    ),
    "unified": (
        "id content scope categories importance source private metadata created_at last_accessed crew_id agent_id "
        "group_id session_id llm_model tools_used embedding embedding_model version"
    ),
}
TYPES = {
    "short_term": {
        "interaction_sequence": "bigint",
        "created_at": "timestamp",
        "ttl_hours": "int",
    },
    "long_term": {"quality": "float", "importance": "float", "last_accessed": "timestamp"},
    "entity": {},
    "document": {"chunk_index": "int", "chunk_size": "int"},
    "unified": {
        "importance": "float",
        "private": "boolean",
        "created_at": "timestamp",
        "last_accessed": "timestamp",
    },
}


@pytest.mark.parametrize("memory_type", COLUMNS)
def test_each_kind_has_its_columns_in_their_order_and_types(memory_type: str) -> None:
    names = COLUMNS[memory_type].split()
    special = {"embedding": "array<float>", "version": "int"} | TYPES[memory_type]
    assert list(DatabricksIndexSchemas.get_schema(memory_type).items()) == [
        (name, special.get(name, "string")) for name in names
    ]


@pytest.mark.parametrize("memory_type", COLUMNS)
def test_a_search_asks_for_every_column_but_the_vector_and_the_summary(memory_type: str) -> None:
    columns = DatabricksIndexSchemas.get_search_columns(memory_type)
    assert columns == [name for name in COLUMNS[memory_type].split() if name not in ("embedding", "document_summary")]
    positions = DatabricksIndexSchemas.get_column_positions(memory_type)
    assert all(columns[position] == name for name, position in positions.items())
    assert len(positions) == len(columns)
    assert "group_id" in columns


def test_an_unknown_memory_type_is_an_error_that_lists_the_known_ones() -> None:
    for ask in (DatabricksIndexSchemas.get_schema, DatabricksIndexSchemas.get_search_columns):
        with pytest.raises(UnknownMemoryType, match="unified"):
            ask("episodic")


def test_neither_group_nor_crew_nor_ids_nor_vectors_can_be_filtered_by() -> None:
    for kind in MemoryKind:
        named = DatabricksIndexSchemas.filterable(kind)
        assert not {"id", "group_id", "crew_id", "embedding", "metadata", "doc_metadata"} & set(named)


def test_no_other_module_names_a_column() -> None:
    """What messages, readers and tables that hold no records call the same is left out."""
    names = {name for kind in COLUMNS.values() for name in kind.split()} - {"id", "version"}
    root = Path(columns.__file__).parents[1]
    for path in root.rglob("*.py"):
        place = path.relative_to(root).parts
        if place[0] in (
            "migrations",
            "parsing",
            "servicers",
            "usecases",
            "tables.py",
            "repositories",
        ) or place in (
            ("rows", "columns.py"),
            ("rows", "row.py"),
            ("rows", "building.py"),
            ("rows", "parsing.py"),
        ):
            continue
        literals = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not literals & names, f"{'/'.join(place)} names columns: {sorted(literals & names)}"


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
FULL_TEXT = TEXT.filter(bool)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
FLOATS = st.floats(0, 1, width=32)
BODIES: st.SearchStrategy[Any] = st.one_of(
    st.builds(
        Unified,
        content=FULL_TEXT,
        scope=st.just("/a/b"),
        categories=st.lists(TEXT).map(tuple),
        importance=FLOATS,
        source=TEXT,
        private=st.booleans(),
        last_accessed=st.none() | MOMENTS,
        session_id=TEXT,
    ),
    st.builds(ShortTerm, FULL_TEXT, TEXT, TEXT, st.integers(-(2**63), 2**63 - 1), st.integers(1, 87600)),
    st.builds(LongTerm, FULL_TEXT, TEXT, FLOATS, FLOATS, st.none() | MOMENTS),
    st.builds(Entity, FULL_TEXT, TEXT, TEXT, st.lists(st.builds(Relationship, FULL_TEXT, FULL_TEXT)).map(tuple)),
    st.builds(
        Document,
        content=FULL_TEXT,
        title=TEXT,
        source=TEXT,
        chunk_index=st.integers(0, 2**31 - 1),
        document_summary=TEXT,
        agent_ids=st.lists(TEXT).map(tuple),
        updated_at=MOMENTS,
    ),
)
RECORDS = st.builds(
    Record,
    id=FULL_TEXT,
    body=BODIES,
    embedding=st.just(unit_vector([1.0, 2.0])),
    agent_id=TEXT,
    llm_model=TEXT,
    tools_used=st.lists(TEXT).map(tuple),
    metadata=st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT)).map(
        canonical_json
    ),
    created_at=MOMENTS,
    owner=st.sampled_from(["", "subject:dev|ann", "agent:bob"]),
    subjects=st.lists(TEXT, unique=True).map(tuple),
    revision=st.integers(1, 2**31 - 1),
    expires_at=st.none() | MOMENTS,
)


@given(RECORDS)
def test_a_record_comes_back_from_its_row_unchanged(record: Record) -> None:
    if isinstance(record.body, Unified) and record.body.private:
        record.owner = "subject:ann"
    key = NamespaceKey("sales", "" if record.kind is MemoryKind.DOCUMENT else "crew", record.kind)
    row = build_row(key, record, "test/embed")
    assert list(row) == list(DatabricksIndexSchemas.get_schema(record.kind))
    assert row["id"] == key.stored_id(record.id)
    parsed = parse_row(record.kind, row | {"a column of a later version": 1})
    assert parsed.embedding is not None
    np.testing.assert_array_equal(parsed.embedding, unit_vector([1.0, 2.0]))
    parsed.embedding = record.embedding
    assert parsed == replace(record, owner=owner_of(record) or "")


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+00:00",
        "2026-01-02 03:04:05",
        "2026-01-02T05:04:05+02:00",
        1767323045,
        1767323045000,
        1767323045.0,
    ],
)
def test_times_are_read_however_an_interface_writes_them(value: object) -> None:
    assert parse_time(value) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("around", ["{}", " {}", "\n\t{} ", "{} "])
@pytest.mark.parametrize(("text", "value"), [('{"a":[1]}', {"a": [1]}), ("[1]", [1]), ('"a"', "a"), ("7", 7)])
def test_white_space_around_json_of_others_is_passed_over(around: str, text: str, value: object) -> None:
    assert read_json(around.replace("{}", text)) == value


@pytest.mark.parametrize("text", ["", "{", "[", '{"a":1}x', '{"a":1} {"b":2}', "[1][2]", '{"a":NaN}', "\ufeff{}"])
def test_text_that_is_not_one_json_value_is_none(text: str) -> None:
    assert read_json(text) is None
