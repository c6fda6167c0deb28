"""A request_id makes one resource, whoever repeats it and however many do so at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository, requests_table
from services.common.db.types import NAMING_CONVENTION
from services.common.db.upsert import insert_ignore, insert_or_update
from services.common.errors import AlreadyExists

metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
requests = requests_table(metadata)
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20), unique=True),
    sa.Column("size", sa.Integer),
)
KEY = RequestKey("sales", "dev|ann", "CreateThing", "r1", "h1")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "things")
    async with database.write() as connection:
        if database.dialect == "postgresql":
            await connection.execute(sa.text("CREATE SCHEMA things"))
        await connection.run_sync(metadata.create_all)
    yield database
    await database.close()


async def claim(database: Database, key: RequestKey, resource_id: str) -> str:
    async with database.write() as connection:
        return await RequestRepository(connection, requests).claim(key, resource_id)


async def test_a_repeated_request_finds_what_the_first_one_made(database: Database) -> None:
    assert await claim(database, KEY, "thing-1") == "thing-1"
    assert await claim(database, KEY, "thing-2") == "thing-1"


@pytest.mark.parametrize("changed", ["group_id", "subject", "method", "request_id"])
async def test_another_group_caller_method_or_id_is_another_request(database: Database, changed: str) -> None:
    await claim(database, KEY, "thing-1")
    assert await claim(database, replace(KEY, **{changed: "other"}), "thing-2") == "thing-2"


async def test_a_request_id_with_another_body_is_refused_and_the_first_request_stays(database: Database) -> None:
    await claim(database, KEY, "thing-1")
    with pytest.raises(AlreadyExists) as refused:
        await claim(database, replace(KEY, request_hash="h2"), "thing-2")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert await claim(database, KEY, "thing-3") == "thing-1"


async def test_a_request_is_found_without_being_made(database: Database) -> None:
    async with database.read() as connection:
        assert await RequestRepository(connection, requests).find(KEY) is None
    await claim(database, KEY, "thing-1")
    async with database.read() as connection:
        assert await RequestRepository(connection, requests).find(KEY) == "thing-1"
        with pytest.raises(AlreadyExists):
            await RequestRepository(connection, requests).find(replace(KEY, request_hash="h2"))


async def test_requests_that_come_at_once_make_one_resource(database: Database) -> None:
    made = await asyncio.gather(*(claim(database, KEY, f"thing-{n}") for n in range(8)))
    assert len(set(made)) == 1


async def test_a_claim_ends_with_the_transaction_that_made_it(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await RequestRepository(connection, requests).claim(KEY, "thing-1")
            raise ZeroDivisionError
    assert await claim(database, KEY, "thing-2") == "thing-2"


async def test_a_row_that_breaks_any_unique_constraint_is_left_out(database: Database) -> None:
    async with database.write() as connection:
        assert await insert_ignore(connection, things, {"id": 1, "name": "a", "size": 1})
        assert not await insert_ignore(connection, things, {"id": 1, "name": "b", "size": 2})
        assert not await insert_ignore(connection, things, {"id": 2, "name": "a", "size": 2})
        assert (await connection.execute(sa.select(things))).all() == [(1, "a", 1)]


async def test_an_upsert_changes_the_columns_named_and_returns_the_row(database: Database) -> None:
    async with database.write() as connection:
        values = {"id": 1, "name": "a", "size": 1}
        row = await insert_or_update(connection, things, values, key=("id",), update=("size",))
        assert tuple(row) == (1, "a", 1)
        values = {"id": 1, "name": "b", "size": 2}
        row = await insert_or_update(connection, things, values, key=("id",), update=("size",))
        assert tuple(row) == (1, "a", 2)
