"""Rows of an installation that is upgraded."""

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import text

from services.common.clock import utc_now
from services.common.db import portions as portions_module
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database
from services.common.db.types import JsonDocument
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import agent
from services.memory.domain.records import Body, Document, Entity, LongTerm, MemoryKind, Record, ShortTerm, Unified
from services.memory.domain.saves import SavedRecord, SaveOutcome
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.repositories.documents import DocumentRepository, remove_expired_documents
from services.memory.stores.sql.store import SqlMemoryStore
from tests.support.service_tables import make_service_tables

_BACKEND = (
    "INSERT INTO memory_backends (id, group_id, name, databricks, disabled_kinds, made_endpoint, created_at, "
    "updated_at, request_subject, request_id, request_hash) "
    "VALUES (:id, 'sales', :id, NULL, '[]', '', :at, :at, :subject, :request_id, :hash)"
)
_NAMESPACE = (
    "INSERT INTO namespaces (id, group_id, crew_id, kind, embedding_model, embedding_dimension, version, "
    "removal_version, record_count, created_at) VALUES ('n', 'sales', 'crew', 1, 'm', 3, 7, 0, 5, :at)"
)

_DOCUMENTS = sa.table(
    "documents",
    *map(sa.column, ("id", "group_id", "document_id", "revision", "last_revision", "expires_us")),
    *(sa.column(name, JsonDocument()) for name in ("document", "stale", "subjects")),
)


async def test_requests_move_to_their_own_table_and_back_and_namespaces_stay(empty_database_url: str) -> None:
    await upgrade_database("memory", empty_database_url, "0001")
    database = Database(empty_database_url, "memory", null_pool=True)
    now = utc_now()
    at = now.isoformat(" ") if database.dialect == "sqlite" else now

    async def rows(statement: str) -> list[tuple[Any, ...]]:
        async with database.read() as connection:
            return [tuple(row) for row in await connection.execute(text(statement))]

    async with database.write() as connection:
        request = {"subject": "dev|ann", "request_id": "once", "hash": "h"}
        await connection.execute(text(_BACKEND), {"id": "asked", "at": at} | request)
        await connection.execute(text(_BACKEND), {"id": "plain", "at": at} | dict.fromkeys(request))
        await connection.execute(text(_NAMESPACE), {"at": at})
    await upgrade_database("memory", empty_database_url)
    assert await rows("SELECT group_id, subject, method, request_id, request_hash, resource_id FROM requests") == [
        ("sales", "dev|ann", "CreateMemoryBackend", "once", "h", "asked")
    ]
    assert await rows("SELECT crew_id, record_count, crew_name FROM namespaces") == [("crew", 5, "")]
    await downgrade_database("memory", empty_database_url, "0001")
    assert await rows("SELECT id, request_subject, request_id, request_hash FROM memory_backends ORDER BY id") == [
        ("asked", "dev|ann", "once", "h"),
        ("plain", None, None, None),
    ]
    assert await rows("SELECT crew_id, record_count FROM namespaces") == [("crew", 5)]
    await database.close()


async def test_records_of_earlier_versions_are_found_by_what_they_hold(database_url: str) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory", null_pool=True)
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    bodies: list[Body] = [
        Unified("e\u0301 \n", scope="/a"),
        Unified("private", private=True, source="bob"),
        Unified("private", private=True),
        ShortTerm("said", query_text="asked ", session_id="s", interaction_sequence=7, ttl_hours=87600),
        LongTerm("learnt", task_description="task"),
        Entity("Ann", "person", "knows ships"),
        Document("part", title="t", source="s", section="1", chunk_index=2, agent_ids=("b", "a")),
    ]

    async def save() -> list[SavedRecord]:
        saved: list[SavedRecord] = []
        for body in bodies:
            record = Record("", deepcopy(body), unit_vector([1, 0, 0]))
            record.owner = agent(body.source) if isinstance(body, Unified) and body.private else ""
            key = NamespaceKey("sales", "" if record.kind is MemoryKind.DOCUMENT else "crew", record.kind)
            saved += await store.save(key, EmbeddingSpace("m", 3), [record], utc_now())
        return saved

    first = await save()
    await downgrade_database("memory", database_url, "0003")
    await upgrade_database("memory", database_url)
    again = await save()
    assert [record.id for record in again] == [record.id for record in first]
    assert {record.outcome for record in again} == {SaveOutcome.EXISTING}
    await database.close()


async def test_first_saves_of_earlier_versions_that_never_ended_are_removed(database_url: str) -> None:
    make_service_tables("memory", database_url)
    await downgrade_database("memory", database_url, "0011")
    database = Database(database_url, "memory", null_pool=True)
    now = utc_now()
    row: dict[str, Any] = {"group_id": "sales", "last_revision": 2, "stale": [], "subjects": []}
    removed = {"document": {"part_count": 0}, "revision": 1, "expires_us": -microseconds(now)}
    alive = {"document": {"part_count": 2}, "revision": 2, "expires_us": None}
    rows: dict[str, dict[str, Any]] = {
        "dead": {"document": None, "revision": 0, "expires_us": None},
        "removed": removed,
        "alive": alive,
    }
    async with database.write() as connection:
        for name, values in rows.items():
            await connection.execute(_DOCUMENTS.insert().values(id=name, document_id=name, **row, **values))
    await upgrade_database("memory", database_url)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        assert await remove_expired_documents(connection, now, unfinished=True) == 0
        assert await repository.due(now, 5) == []
        later = now + timedelta(days=2)
        assert sorted(row.id for row in await repository.due(later, 5)) == ["dead", "removed"]
        assert await remove_expired_documents(connection, later, unfinished=True) == 1
    await downgrade_database("memory", database_url, "0012")
    columns = (_DOCUMENTS.c.id, _DOCUMENTS.c.expires_us)
    async with database.read() as connection:
        kept = {row.id: row.expires_us for row in await connection.execute(sa.select(*columns))}
    assert kept["alive"] is None
    assert kept["removed"] < 0
    await database.close()


async def test_rows_are_read_in_portions_bounded_in_bytes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory", null_pool=True)
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    texts = ["é" * 50, "a" * 10, "b" * 250, "", *["c" * 40] * 7]
    records = [
        Record(f"r{number}", Document(text or "-", title="t"), unit_vector([1, 0, 0]))
        for number, text in enumerate(texts)
    ]
    key = NamespaceKey("sales", "", MemoryKind.DOCUMENT)
    await store.save(key, EmbeddingSpace("m", 3), records, utc_now())
    monkeypatch.setattr(portions_module, "_ROWS", 4)
    monkeypatch.setattr(portions_module, "_BYTES", 100)
    table = sa.table("document_records", *map(sa.column, ("id", "title", "content", "chunk_index")))

    def read(connection: sa.Connection) -> list[list[Any]]:
        columns = ["title", "content", "chunk_index"]
        return [list(rows) for rows in portions_module.portions(connection, table, columns, table.c.title == "t")]

    async with database.read() as connection:
        portions = await connection.run_sync(read)
    rows = [row for portion in portions for row in portion]
    assert [row.id for row in rows] == sorted(key.stored_id(record.id) for record in records)
    assert sorted(row.content for row in rows) == sorted(text or "-" for text in texts)
    assert len(portions) > 5
    for portion in portions:
        assert len(portion) == 1 or sum(len((row.title + row.content).encode()) for row in portion) <= 100
    await database.close()


async def test_the_index_of_words_is_made_of_rows_that_are_there(postgres_url: str) -> None:
    make_service_tables("memory", postgres_url)
    database = Database(postgres_url, "memory", null_pool=True)
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    record = Record("r", Unified("words"), unit_vector([1, 0, 0]))
    await store.save(NamespaceKey("sales", "crew", MemoryKind.UNIFIED), EmbeddingSpace("m", 3), [record], utc_now())
    await database.close()
    await downgrade_database("memory", postgres_url, "0006")
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "record_words" in statement:
            statements.append(" ".join(statement.split()[:2]))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        await upgrade_database("memory", postgres_url)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert statements == ["CREATE TABLE", "INSERT INTO", "CREATE INDEX"]
