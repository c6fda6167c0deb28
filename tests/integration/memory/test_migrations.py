"""Rows of an installation that is upgraded."""

from typing import Any

from sqlalchemy import text

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database

_BACKEND = (
    "INSERT INTO memory_backends (id, group_id, name, databricks, disabled_kinds, made_endpoint, created_at, "
    "updated_at, request_subject, request_id, request_hash) "
    "VALUES (:id, 'sales', :id, NULL, '[]', '', :at, :at, :subject, :request_id, :hash)"
)
_NAMESPACE = (
    "INSERT INTO namespaces (id, group_id, crew_id, kind, embedding_model, embedding_dimension, version, "
    "removal_version, record_count, created_at) VALUES ('n', 'sales', 'crew', 1, 'm', 3, 7, 0, 5, :at)"
)


async def test_requests_move_to_their_own_table_and_back_and_namespaces_stay(database_url: str) -> None:
    await upgrade_database("memory", database_url, "0001")
    database = Database(database_url, "memory", null_pool=True)
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
    await upgrade_database("memory", database_url)
    assert await rows("SELECT group_id, subject, method, request_id, request_hash, resource_id FROM requests") == [
        ("sales", "dev|ann", "CreateMemoryBackend", "once", "h", "asked")
    ]
    assert await rows("SELECT crew_id, record_count, crew_name FROM namespaces") == [("crew", 5, "")]
    await downgrade_database("memory", database_url, "0001")
    assert await rows("SELECT id, request_subject, request_id, request_hash FROM memory_backends ORDER BY id") == [
        ("asked", "dev|ann", "once", "h"),
        ("plain", None, None, None),
    ]
    assert await rows("SELECT crew_id, record_count FROM namespaces") == [("crew", 5)]
    await database.close()
