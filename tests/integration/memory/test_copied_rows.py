"""Rows that are written by COPY: the same as those of a statement, and what becomes of a COPY that fails."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from services.common.db.database import Database
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
from services.memory.domain.vectors import unit_vector
from services.memory.stores.sql import writes
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import record_words, records
from tests.integration.memory.pgvector_support import backend_of, pools_of, store_in
from tests.integration.memory.store_model import KEYS, NOW, SPACE

MANY = 60


def _body(kind: MemoryKind, number: int) -> Body:
    text = f'été {number}: "a\\b",\n\t\\N and 漢字'
    match kind:
        case MemoryKind.UNIFIED:
            used = NOW if number % 2 else None
            return Unified(text, "/a", ("x", 'y","'), 0.3, "alice", number % 3 == 0, used, "s1")
        case MemoryKind.SHORT_TERM:
            return ShortTerm(text, "query", "s1", number, 5)
        case MemoryKind.LONG_TERM:
            return LongTerm(text, "task" * (number % 2), 0.7, 0.3, NOW)
        case MemoryKind.ENTITY:
            return Entity(f"entity {number}", "person", text, (Relationship("knows", text),) * (number % 2))
        case MemoryKind.DOCUMENT:
            return Document(text, "title", "source", chunk_index=number, agent_ids=("reader",), updated_at=NOW)


def _some(kind: MemoryKind) -> list[Record]:
    return [
        Record(
            f"r{number}",
            _body(kind, number),
            unit_vector((number + 1, 0.1, -2)),
            "reader",
            "m" * (number % 2),
            ("ocr",) * (number % 2),
            f'{{"n":{number}}}',
            created_at=NOW,
            owner="alice",
            subjects=("alice",),
        )
        for number in range(MANY)
    ]


@contextlib.asynccontextmanager
async def _store(url: str, *, pgvector: bool = False) -> AsyncIterator[Any]:
    if pgvector:
        async with pools_of(url) as pools:
            yield store_in(pools, backend_of(url), exact_rows=10**9)
        return
    database = Database(url, "memory")
    try:
        yield SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    finally:
        await database.close()


async def _rows(store: Any, kind: MemoryKind) -> list[dict[str, Any]]:
    """Return all that is stored of a kind, but for what every write counts."""
    rows: list[dict[str, Any]] = []
    async with store._database.read() as connection:
        for table, key in ((records[kind], "id"), (record_words, "record_id")):
            found = await connection.execute(select(table).order_by(table.c[key]))
            rows += [{**row._mapping, "written_version": 0, "doc": 0} for row in found]
    return rows


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that rows were copied into."""
    copy, tables = asyncpg.Connection.copy_records_to_table, list[str]()

    async def spy(connection: Any, table: str, **options: Any) -> Any:
        result = await copy(connection, table, **options)
        tables.append(table)
        return result

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", spy)
    return tables


@pytest.fixture(params=["postgres_url", "pgvector_url"])
def kept_in(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """URL of a database, and whether it is a group's own."""
    return request.getfixturevalue(request.param), request.param == "pgvector_url"


async def test_rows_by_copy_equal_those_by_a_statement(
    kept_in: tuple[str, bool], copied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, pgvector = kept_in
    async with _store(url, pgvector=pgvector) as store:
        by_copy: dict[MemoryKind, list[dict[str, Any]]] = {}
        for kind in MemoryKind:
            key = NamespaceKey("sales", "a", kind)
            await store.save(key, SPACE, _some(kind), NOW)
            by_copy[kind] = await _rows(store, kind)
            await store.clear(key)
            assert await _rows(store, kind) == []
        assert copied == [records[kind].name for kind in MemoryKind]
        copied.clear()
        monkeypatch.setattr(writes, "_COPIED", MANY * 1000)
        for kind in MemoryKind:
            key = NamespaceKey("sales", "a", kind)
            await store.save(key, SPACE, _some(kind), NOW)
            assert await _rows(store, kind) == by_copy[kind]
            assert len(by_copy[kind]) == 2 * MANY
            await store.clear(key)
    assert copied == []


@pytest.mark.parametrize("error", [asyncpg.FeatureNotSupportedError, asyncpg.UniqueViolationError])
async def test_what_cannot_be_copied_is_stored_by_a_statement(
    error: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise error("refused")

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", refuse)
    writes._log_not_supported.cache_clear()
    async with _store(postgres_url) as store:
        with capture_logs() as lines:
            await store.save(KEYS[0], SPACE, _some(MemoryKind.UNIFIED), NOW)
            await store.save(KEYS[1], SPACE, _some(MemoryKind.UNIFIED), NOW)
        assert (await store.namespaces("sales", 5, None))[1].record_count == MANY
    tables = [line["table"] for line in lines if line["event"] == "copy_not_supported"]
    # Once, however often.
    assert tables == ([records[MemoryKind.UNIFIED].name] if error is asyncpg.FeatureNotSupportedError else [])


async def test_a_copy_that_fails_otherwise_is_not_done_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def refuse(_: Any, table: str, **__: Any) -> None:
        tried.append(table)
        raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", refuse)
    async with _store(postgres_url) as store:
        with pytest.raises(DBAPIError, match="timeout"):
            await store.save(KEYS[0], SPACE, _some(MemoryKind.UNIFIED), NOW)
        assert await store.namespaces("sales", 5, None) == []
    assert tried == [records[MemoryKind.UNIFIED].name]
