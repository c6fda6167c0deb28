"""Schema changes of every service, by the command people use."""

import asyncio
import socket
import uuid
from pathlib import Path
from unittest.mock import patch

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text
from sqlalchemy.engine import make_url

from services.common.db.database import Database
from services.common.db.migrate import (
    SchemaState,
    downgrade_database,
    main,
    schema_differences,
    schema_state,
    upgrade_database,
)
from services.common.settings import SERVICES
from tests.support.former_statements import insert_rows, use_rows
from tests.support.previous_release import FormerTables, former_tables
from tests.support.service_tables import make_service_tables


@pytest.fixture(scope="module", params=SERVICES)
def former(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, FormerTables]:
    """A service, and its tables as the previous release knows them."""
    return request.param, former_tables(request.param, tmp_path_factory.mktemp("former"))


async def test_every_history_goes_up_and_down_and_agrees_with_the_tables(
    former: tuple[str, FormerTables], empty_database_url: str
) -> None:
    service, release = former
    assert await schema_state(service, empty_database_url) is SchemaState.BEHIND
    await upgrade_database(service, empty_database_url)
    assert await schema_state(service, empty_database_url) is SchemaState.CURRENT
    assert await schema_differences(service, empty_database_url) == []
    await upgrade_database(service, empty_database_url)
    await downgrade_database(service, empty_database_url)
    assert await schema_state(service, empty_database_url) is SchemaState.BEHIND
    await upgrade_under_the_previous_release(service, release, empty_database_url)


async def upgrade_under_the_previous_release(service: str, release: FormerTables, url: str) -> None:
    """Upgrade a schema with rows of the previous release in it, whose statements go on working on the newest schema."""
    await upgrade_database(service, url, release.revision)
    database = Database(url, service)
    async with database.write() as connection:
        tables = await connection.run_sync(release.of)
        await connection.run_sync(insert_rows, tables)
    await upgrade_database(service, url)
    async with database.write() as connection:
        await connection.run_sync(use_rows, tables)
        await connection.run_sync(insert_rows, tables)
        await connection.run_sync(use_rows, tables)
    await database.close()


async def revision(database: Database, to: str = "") -> str:
    async with database.write() as connection:
        if to:
            await connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": to})
        return str(await connection.scalar(text("SELECT version_num FROM alembic_version")))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_schema_of_a_newer_release_is_accepted_and_left_alone(
    service: str, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_service_tables(service, database_url)
    database = Database(database_url, service)
    await revision(database, to="9999")
    assert await schema_state(service, database_url) is SchemaState.AHEAD
    assert await upgrade_database(service, database_url) is SchemaState.AHEAD
    for action, code in ("upgrade", 0), ("check", 0), ("downgrade", 1):
        assert await asyncio.to_thread(main, [action, service, "--url", database_url]) == code
    written = capsys.readouterr()
    assert written.out == f"{service}: ahead of this release; left as it is\n" * 2
    assert written.err == f"{service}: ahead of this release; downgrade with the release that made it\n"
    assert await revision(database) == "9999"
    assert await schema_differences(service, database_url) == []
    await database.close()


async def test_a_check_waits_for_no_migration_and_may_change_nothing(postgres_url: str) -> None:
    make_service_tables("auth", postgres_url)
    database = Database(postgres_url, "auth")
    user = f"reader_{uuid.uuid4().hex}"
    async with database.write() as connection:
        await connection.execute(text(f"CREATE ROLE {user} LOGIN"))
        await connection.execute(text(f"GRANT USAGE ON SCHEMA auth TO {user}"))
        await connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA auth TO {user}"))
    try:
        async with database.write() as migrating:
            await migrating.execute(text("SELECT pg_advisory_xact_lock(hashtext('coxswain-migrate'))"))
            url = make_url(postgres_url).set(username=user).render_as_string()
            assert await schema_state("auth", url) is SchemaState.CURRENT
    finally:
        async with database.write() as connection:
            await connection.execute(text(f"DROP OWNED BY {user}"))
            await connection.execute(text(f"DROP ROLE {user}"))
        await database.close()


async def test_a_command_names_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_DATABASE_WAIT_SECONDS", "0.5")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        url = f"postgresql://coxswain:hunter2@127.0.0.1:{port}/suite"
        assert await asyncio.to_thread(main, ["upgrade", "auth", "--url", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"the database of auth (127.0.0.1:{port}/suite) cannot be used: ")


def test_the_command_checks_upgrades_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(tmp_path))
    assert main(["check"]) == 1
    assert "make migrate" in capsys.readouterr().err
    assert main(["upgrade"]) == 0
    assert main(["check"]) == 0
    assert main(["seed"]) == 0
    assert main(["seed"]) == 0
    assert main(["downgrade", "memory"]) == 0
    assert main(["check", "auth"]) == 0
    assert main(["check", "memory"]) == 1


def test_no_migration_is_written_when_there_is_nothing_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(tmp_path))
    assert main(["revision", "auth", "-m", "nothing"]) == 0
    assert "nothing to write" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["upgrade", "nobody"], ["revision", "auth"], ["revision", "-m", "all of them"]])
def test_wrong_words_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


async def test_a_migration_may_compute_for_long_between_two_statements(empty_postgres_url: str) -> None:
    shown: list[str] = []

    def upgrade(config: Config, _revision: str) -> None:
        shown.append(config.attributes["connection"].scalar(text("SHOW idle_in_transaction_session_timeout")))

    with patch.object(command, "upgrade", upgrade):
        await upgrade_database("auth", empty_postgres_url)
    assert shown == ["0"]
