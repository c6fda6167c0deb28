import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from services.common.db import connection_checks, point_reads
from services.common.db.connection_metrics import count_connections
from services.common.db.database import Database, async_url
from services.common.db.point_reads import PointRead
from services.common.db.point_reads import _open as open_point_read
from services.common.db.sessions import POSTGRES_SESSION
from services.common.db.sqlite_connection import open_sqlite
from services.common.db.types import NAMING_CONVENTION, JsonDocument, UtcDateTime
from services.common.errors import Aborted, InvalidArgument, Unavailable
from services.common.group_turns import working_for

metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", UtcDateTime),
    sa.Column("document", JsonDocument),
)
parts = sa.Table("parts", metadata, sa.Column("thing_id", sa.Integer, sa.ForeignKey("things.id")))


@pytest.fixture
async def database(database_url: str) -> Database:
    database = Database(database_url, "things")
    async with database.write() as connection:
        if database.dialect == "postgresql":
            await connection.execute(sa.text("CREATE SCHEMA things"))
        await connection.run_sync(metadata.create_all)
    return database


async def test_what_a_block_wrote_is_there_and_what_a_failed_block_wrote_is_not(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(things.insert().values(id=1))
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=2))
            raise ZeroDivisionError
    async with database.read() as connection:
        assert (await connection.scalars(sa.select(things.c.id))).all() == [1]
    await database.close()


async def test_a_statement_that_is_written_once_needs_no_transaction_on_postgresql(database: Database) -> None:
    async with database.write_once() as connection:
        await connection.execute(things.insert().values(id=1))
        seen = await database.fetch(sa.select(things.c.id))
        assert bool(seen) is (database.dialect == "postgresql")
    with pytest.raises(IntegrityError):
        async with database.write_once() as connection:
            await connection.execute(things.insert().values(id=1))
    # The next one on the same connection is a whole transaction again.
    with pytest.raises(ZeroDivisionError):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=2))
            raise ZeroDivisionError
    assert await database.fetch(sa.select(things.c.id)) == [{"id": 1}]
    await database.close()


async def test_a_row_that_belongs_to_what_was_removed_loses_against_the_removal(database: Database) -> None:
    with pytest.raises(Aborted, match="removed"):
        async with database.write() as connection:
            await connection.execute(parts.insert().values(thing_id=7))
    await database.close()


async def test_moments_and_documents_come_back_as_they_went(database: Database) -> None:
    moment = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    document = {"text": "ü", "list": [1, 2.5, None, True], "nested": {"a": {}}}
    async with database.write() as connection:
        await connection.execute(things.insert().values(id=1, at=moment, document=document))
    async with database.read() as connection:
        row = (await connection.execute(sa.select(things))).one()
    assert row.at == moment
    assert row.at.tzinfo is UTC
    assert row.document == document
    with pytest.raises(Exception, match="time zone"):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=2, at=datetime(2030, 1, 1)))  # noqa: DTZ001
    await database.close()


async def test_a_fetch_sees_every_commit_before_it_in_the_types_of_the_columns(database: Database) -> None:
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    statement = sa.select(things).where(things.c.id >= sa.bindparam("least")).order_by(things.c.id)
    for count in range(1, 20):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=count, at=moment, document={"n": count}))
        rows = await asyncio.gather(*(database.fetch(statement, {"least": 1}) for _ in range(8)))
        assert all(found == rows[0] for found in rows)
        assert rows[0] == [{"id": n, "at": moment, "document": {"n": n}} for n in range(1, count + 1)]
    assert await database.fetch(statement, {"least": 100}) == []
    await database.close()


async def test_connections_that_are_in_use_and_those_that_are_kept_are_metrics(database: Database) -> None:
    def counted(pool: str, state: str) -> float | None:
        labels = {"database": "counted", "pool": pool, "state": state}
        return REGISTRY.get_sample_value("coxswain_database_connections", labels)

    count_connections("counted", database)
    assert [counted(pool, "in_use") for pool in ("transactions", "reads")] == [0, 0]
    await database.fetch(sa.select(things))
    async with database.read(), database.read():
        assert (counted("transactions", "in_use"), counted("reads", "in_use")) == (2, 0)
    assert (counted("transactions", "in_use"), counted("transactions", "idle"), counted("reads", "idle")) == (0, 2, 1)


async def test_many_writers_at_once_all_succeed(database: Database) -> None:
    async def increment() -> None:
        async with database.write() as connection:
            highest = await connection.scalar(sa.select(sa.func.coalesce(sa.func.max(things.c.id), 0)))
            await connection.execute(things.insert().values(id=(highest or 0) + 1))

    results = await asyncio.gather(*(increment() for _ in range(20)), return_exceptions=True)
    # PostgreSQL lets two writers read the same maximum: then one of them is told so. SQLite's take turns.
    failures = [r for r in results if r is not None]
    assert all(isinstance(f, IntegrityError) for f in failures)
    if database.dialect == "sqlite":
        assert not failures
    await database.close()


async def test_two_engines_on_one_sqlite_file_wait_for_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first, second = Database(url, "a"), Database(url, "b")
    async with first.write() as connection:
        await connection.run_sync(metadata.create_all)
    held, released = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with first.write() as connection:
            await connection.execute(things.insert().values(id=1))
            held.set()
            await released.wait()

    holder = asyncio.create_task(hold())
    await held.wait()

    async def follow() -> None:
        async with second.write() as connection:
            await connection.execute(things.insert().values(id=2))

    follower = asyncio.create_task(follow())
    async with second.read() as connection:
        assert (await connection.scalars(sa.select(things.c.id))).all() == []
    assert not follower.done()
    released.set()
    await asyncio.gather(holder, follower)
    async with first.read() as connection:
        assert (await connection.scalars(sa.select(things.c.id))).all() == [1, 2]
    await first.close()
    await second.close()


async def test_sqlite_is_in_wal_mode_and_checks_foreign_keys(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'deep' / 'er' / 'x.db'}", "x")
    async with database.read() as connection:
        assert await connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(sa.text("PRAGMA foreign_keys")) == 1
    await database.close()


async def test_a_database_that_does_not_answer_is_unavailable_and_may_be_tried_again() -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none", "x")
    with pytest.raises(Unavailable) as failed:
        async with database.read():
            pass
    assert failed.value.metadata == {"dependency": "database"}
    assert failed.value.retry_after
    with pytest.raises(Unavailable):
        await database.fetch(sa.select(sa.literal(1)))


async def test_a_connection_lost_in_the_middle_is_unavailable(postgres_url: str) -> None:
    database = Database(postgres_url, "x")
    with pytest.raises(Unavailable):
        async with database.write() as connection:
            pid = await connection.scalar(sa.text("SELECT pg_backend_pid()"))
            killer = Database(postgres_url, "y")
            async with killer.read() as other:
                await other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            await killer.close()
            await connection.execute(sa.text("SELECT 1"))
    async with database.read() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await database.close()


async def test_a_connection_that_died_while_it_was_idle_is_replaced(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_checks, "_IDLE_SECONDS", 0.0)
    database, killer = Database(postgres_url, "x"), Database(postgres_url, "y")
    pid = sa.text("SELECT pg_backend_pid()")
    async with database.read() as connection:
        before = await connection.scalar(pid)
    async with killer.read() as other:
        await other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": before})
    async with database.write() as connection:
        assert await connection.scalar(pid) != before
    await database.close()
    await killer.close()


async def test_a_connection_in_use_all_the_time_is_not_pinged(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url, "x")
    pinged: list[object] = []

    def ping(connection: object) -> bool:
        pinged.append(connection)
        return True

    monkeypatch.setattr(database.engine.dialect, "do_ping", ping)
    # A busy machine may take its time between two uses.
    monkeypatch.setattr(connection_checks, "_IDLE_SECONDS", 60.0)
    for _ in range(3):
        async with database.read() as connection:
            await connection.scalar(sa.text("SELECT 1"))
    assert pinged == []
    monkeypatch.setattr(connection_checks, "_IDLE_SECONDS", 0.0)
    async with database.read() as connection:
        await connection.scalar(sa.text("SELECT 1"))
    assert len(pinged) == 1
    await database.close()


async def test_what_stands_still_in_a_transaction_keeps_nobody_waiting(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POSTGRES_SESSION, "idle_in_transaction_session_timeout", "200ms")
    lock = sa.text("SELECT pg_advisory_xact_lock(7)")
    stopped, other = Database(postgres_url, "x"), Database(postgres_url, "x")
    with pytest.raises(Unavailable):
        async with stopped.write() as connection:
            await connection.execute(lock)
            async with other.write() as second:
                await second.execute(lock)
            await connection.execute(sa.text("SELECT 1"))
    await stopped.close()
    await other.close()


async def test_a_fetch_that_finds_its_connection_lost_is_read_on_a_new_one(postgres_url: str) -> None:
    database = Database(postgres_url, "public")
    statement = sa.select(sa.func.pg_backend_pid().label("process"))
    before = {
        row["process"] for rows in await asyncio.gather(*(database.fetch(statement) for _ in range(3))) for row in rows
    }
    async with database.read() as connection:
        for process in before:
            await connection.execute(sa.text("SELECT pg_terminate_backend(:process)"), {"process": process})
    [row] = await database.fetch(statement)
    assert row["process"] not in before
    await database.close()


def _refuse_writes(database: Database) -> None:
    """Have every connection opened from now on take no writes."""
    if database.dialect == "sqlite":

        @sa.event.listens_for(database.engine.sync_engine, "connect")
        def read_only(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA query_only=ON")
            cursor.close()
    else:

        @sa.event.listens_for(database.engine.sync_engine, "begin")
        def read_only_transaction(connection: sa.Connection) -> None:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")


async def test_a_database_that_takes_no_writes_says_so_and_is_read_all_the_same(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(things.insert().values(id=1))
    await database.engine.dispose()
    _refuse_writes(database)
    with pytest.raises(Unavailable, match="takes no writes: nothing of this call was stored"):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=2))
    assert [row["id"] for row in await database.fetch(sa.select(things.c.id))] == [1]
    await database.close()


async def test_a_full_disk_is_told_and_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'things.db'}", "things")
    limits: list[int] = []

    @sa.event.listens_for(database.engine.sync_engine, "connect")
    def fill_up(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count=20")
        limits.append(cursor.fetchone()[0])
        cursor.close()

    async with database.write() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(things.insert().values(id=1))
    with pytest.raises(Unavailable, match="no room left: nothing of this call was stored"):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=2))
            await connection.execute(things.insert().values(id=3, document="x" * 4096 * 40))
    assert [row["id"] for row in await database.fetch(sa.select(things.c.id))] == [1]
    async with database.write() as connection:
        await connection.execute(things.insert().values(id=4))
    assert limits == [20]
    await database.close()


async def test_closing_waits_for_reads_and_later_ones_are_told(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(things.insert().values(id=1))
    reads = [asyncio.create_task(database.fetch(sa.select(things.c.id))) for _ in range(20)]
    await asyncio.gather(*reads)
    gone = [asyncio.create_task(database.fetch(sa.select(things.c.id))) for _ in range(20)]
    for read in gone:
        read.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert len(await database.fetch(sa.select(things.c.id))) == 1
    await database.close()
    if database.dialect == "sqlite":
        with pytest.raises(Unavailable):
            await database.fetch(sa.select(things.c.id))


async def test_what_the_driver_says_of_a_connection_that_broke_in_a_call_is_unavailable(database: Database) -> None:
    with pytest.raises(Unavailable):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=1))
            raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
    assert await database.fetch(sa.select(things)) == []
    await database.close()


def test_other_databases_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mysql"):
        async_url("mysql://host/db")


async def test_a_connection_that_is_closed_in_the_middle_of_a_statement_gives_its_lock_back(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    given_up, other = await open_sqlite(path), await open_sqlite(path)
    await given_up.execute("PRAGMA journal_mode=WAL")
    await given_up.execute("CREATE TABLE numbers (number INTEGER)")
    await given_up.execute("BEGIN IMMEDIATE")
    unread = await given_up.execute("INSERT INTO numbers VALUES (1), (2) RETURNING number")
    await given_up.close()
    await other.execute("PRAGMA busy_timeout=0")
    await other.execute("BEGIN IMMEDIATE")
    assert await (await other.execute("SELECT number FROM numbers")).fetchall() == []
    await other.close()
    del unread


async def test_a_point_read_sees_every_commit_before_it_whoever_reads(database: Database) -> None:
    statement = sa.select(things.c.id).where(
        things.c.id == sa.bindparam("wanted"), things.c.id >= sa.bindparam("least")
    )
    read = database.point_read(statement, ("least", "wanted"))
    assert await read.fetch(0, 1) is None
    for number in range(1, 6):
        async with database.write() as connection:
            await connection.execute(things.insert().values(id=number))
            assert await read.fetch(0, number) is None
        rows = await asyncio.gather(*(read.fetch(0, number) for _ in range(4)))
        assert [list(row or ()) for row in rows] == [[number]] * 4
        assert await read.fetch(number + 1, number) is None
    await database.close()


async def test_rows_as_the_driver_gives_them_are_the_same_rows(database: Database) -> None:
    wanted: sa.BindParameter[int] = sa.bindparam("wanted", expanding=True)
    statement = sa.select(things.c.id, sa.literal("x").label("letter")).where(things.c.id.in_(wanted))
    async with database.write() as connection:
        await connection.execute(things.insert(), [{"id": number} for number in range(1, 6)])
    for wanted_ids in ([], [2], [4, 2, 9], list(range(1, 600))):
        rows = await database.fetch_raw(statement.order_by(things.c.id), {"wanted": wanted_ids})
        assert rows == [{"id": number, "letter": "x"} for number in range(1, 6) if number in wanted_ids]
    await database.close()


async def test_a_locked_file_is_waited_for_by_raw_reads_too(tmp_path: Path) -> None:
    statement = sa.select(things.c.id)
    database = await _file_with_a_thing(tmp_path / "test.db")
    assert await database.fetch_raw(statement, {}) == [{"id": 1}]
    await database.close()
    with pytest.raises(Unavailable):
        await database.fetch_raw(statement, {})
    locked = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    locked.execute("PRAGMA locking_mode=EXCLUSIVE")
    locked.execute("UPDATE things SET id = 2")
    database = Database(f"sqlite:///{tmp_path / 'test.db'}", "test")
    waiting = asyncio.create_task(database.fetch_raw(statement, {}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    locked.close()
    assert await waiting == [{"id": 2}]
    await database.close()


async def test_a_point_read_of_a_locked_file_is_waited_for_in_a_thread(tmp_path: Path) -> None:
    """SQLite's exclusive mode is the one lock that readers of a WAL file meet."""
    path = tmp_path / "test.db"
    database = Database(f"sqlite:///{path}", "test")
    async with database.write() as connection:
        await connection.run_sync(things.metadata.create_all)
        await connection.execute(things.insert().values(id=1))
    await database.close()
    database = Database(f"sqlite:///{path}", "test")
    read = database.point_read(sa.select(things.c.id).where(things.c.id == sa.bindparam("wanted")), ("wanted",))
    assert list(await read.fetch(1) or ()) == [1]
    await database.close()

    locked = sqlite3.connect(path, isolation_level=None)
    locked.execute("PRAGMA locking_mode=EXCLUSIVE")
    locked.execute("UPDATE things SET id = 2")
    database = Database(f"sqlite:///{path}", "test")
    read = database.point_read(sa.select(things.c.id).where(things.c.id == sa.bindparam("wanted")), ("wanted",))
    waiting = asyncio.create_task(read.fetch(2))
    ticks = 0
    while ticks < 20:
        await asyncio.sleep(0)
        ticks += 1
    assert not waiting.done()
    locked.close()
    assert list(await waiting or ()) == [2]
    await database.close()
    with pytest.raises(Unavailable):
        await read.fetch(2)


async def _file_with_a_thing(path: Path) -> Database:
    database = Database(f"sqlite:///{path}", "test")
    async with database.write() as connection:
        await connection.run_sync(things.metadata.create_all)
        await connection.execute(things.insert().values(id=1))
    return database


def _point_read(database: Database) -> PointRead:
    return database.point_read(sa.select(things.c.id).where(things.c.id == sa.bindparam("wanted")), ("wanted",))


async def test_first_point_reads_at_once_leave_one_connection(tmp_path: Path) -> None:
    database = await _file_with_a_thing(tmp_path / "test.db")
    opened: list[sqlite3.Connection] = []

    def opening(path: str) -> sqlite3.Connection:
        opened.append(open_point_read(path))
        return opened[-1]

    with patch.object(point_reads, "_open", opening):
        read = _point_read(database)
        rows = await asyncio.gather(*(read.fetch(1) for _ in range(4)))
    assert [list(row or ()) for row in rows] == [[1]] * 4
    assert len(opened) == 4
    assert len([connection for connection in opened if not _is_closed(connection)]) == 1
    await database.close()
    assert all(map(_is_closed, opened))


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


async def test_a_point_read_that_failed_is_logged_once_and_opens_anew(tmp_path: Path) -> None:
    database = await _file_with_a_thing(tmp_path / "test.db")
    read = _point_read(database)
    opened: list[sqlite3.Connection] = []

    def opening(path: str) -> sqlite3.Connection:
        opened.append(open_point_read(path))
        if len(opened) < 3:
            opened[-1].set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
        return opened[-1]

    with patch.object(point_reads, "_open", opening), capture_logs() as logs:
        for _ in range(4):
            assert list(await read.fetch(1) or ()) == [1]
    assert [event["event"] for event in logs] == ["point_read_failed"]
    assert len(opened) == 3
    assert [_is_closed(connection) for connection in opened] == [True, True, False]
    await database.close()


async def test_a_statement_that_is_too_large_is_the_callers_to_split(database: Database) -> None:
    statement: sa.Executable = sa.select(things.c.id).where(sa.or_(*(things.c.id + n > 0 for n in range(1500))))
    if database.dialect == "postgresql":
        # How deep is too deep depends on the server's stack.
        statement = sa.text("DO $$ BEGIN RAISE SQLSTATE '54001'; END $$")
    with pytest.raises(InvalidArgument, match="split"):
        async with database.read() as connection:
            await connection.execute(statement)
    await database.close()


async def test_a_call_that_is_cancelled_while_its_connection_goes_back_loses_none(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with database.write() as connection:
            await connection.execute(sa.select(things))

    for _ in range(3):
        task = asyncio.create_task(work())
        # Just before the pool rolls back what a connection may still hold.
        sa.event.listen(database.engine.sync_engine, "reset", lambda *_, task=task: task.cancel(), once=True)
        await asyncio.wait({task})
        assert task.cancelled()

    async with database.write() as connection:
        await connection.execute(things.insert().values(id=1))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    await database.close()


async def test_who_has_asked_for_every_connection_holds_others_up_for_one_turn(database: Database) -> None:
    finished = list[str]()

    async def work(group: str, number: int) -> None:
        with working_for(group):
            async with database.write() as connection:
                await connection.execute(things.insert().values(id=number))
            async with database.read() as connection:
                await connection.execute(sa.select(things.c.id).where(things.c.id == number))
            await database.fetch(sa.select(things.c.id).where(things.c.id == number))
            finished.append(group)

    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(work("loud", number))
        await asyncio.sleep(0)
        tasks.create_task(work("quiet", 30))
    # Those that came first have what there is at once; then each of its three steps waits for its turn once.
    assert finished.index("quiet") < 15
    await database.close()
