"""What an operator is told about the databases that the settings name."""

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from services.common.db import doctor
from services.common.db.access import DatabaseAccess
from services.common.db.connection_budget import ConnectionBudget
from services.common.db.database import Database
from services.common.db.doctor import Finding, examine, main
from services.common.db.migrate import newest_revision, upgrade_database
from services.common.settings import CommonSettings
from tests.support.service_tables import make_service_tables


async def findings(url: str) -> dict[str, Finding]:
    settings = CommonSettings(database_url=url)
    return {finding.check: finding async for finding in examine(settings, "auth")}


async def test_postgresql_is_looked_at(empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = await findings(empty_postgres_url)
    assert (empty["schema"].status, empty["schema"].remedy) == ("fail", "run: make migrate")
    newest = newest_revision("auth")
    assert empty["schema"].text == f"empty, and this release needs {newest}: its processes do not start"
    assert "the server allows " in empty["connections"].text
    await upgrade_database("auth", empty_postgres_url)
    budget = ConnectionBudget(allowed=97, pooled=90, others=7)

    async def read_budget(_database: DatabaseAccess) -> ConnectionBudget:
        return budget

    # The real numbers depend on the tests that run at the same time.
    monkeypatch.setattr(doctor, "read_connection_budget", read_budget)
    found = await findings(empty_postgres_url)
    assert {finding.status for finding in found.values()} == {"ok"}
    assert list(found) == ["database", "schema", "clock", "connections"]
    assert found["schema"].text == f"at revision {newest}, the newest of this release"
    database = Database(empty_postgres_url, "auth")
    async with database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    budget = ConnectionBudget(allowed=97, pooled=90, others=12)
    monkeypatch.setattr(doctor, "_CLOCK_SECONDS", -1e9)
    found = await findings(empty_postgres_url)
    assert {name: finding.status for name, finding in found.items()} == {
        "database": "ok",
        "schema": "warn",
        "clock": "warn",
        "connections": "warn",
    }
    ahead = f"at revision 9999 of a newer release; this one knows {newest}, and works on it"
    assert found["schema"].text == ahead
    assert found["connections"].text == ("5 are missing: the server allows 97; pools may open 90, 12 others are open")


async def test_a_database_that_is_away_is_named_without_its_password() -> None:
    found = await findings("postgresql://coxswain:hunter2@127.0.0.1:1/cox")
    assert list(found) == ["database"]
    assert found["database"].status == "fail"
    assert "127.0.0.1:1/cox" in found["database"].text
    assert "hunter2" not in str(found)


def test_the_command_tells_of_each_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(tmp_path))
    make_service_tables("auth", f"sqlite:///{tmp_path / 'auth.db'}")
    (tmp_path / "models.db").touch()
    assert main([]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"auth.db", "models.db"}, "nothing is made"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["ok", "auth", "database"],
        ["ok", "auth", "schema"],
        ["ok", "models", "database"],
        ["fail", "models", "schema"],
        ["fail", "memory", "database"],
        ["fail", "orchestrator", "database"],
    ]
    newest = newest_revision("models")
    assert lines[3].endswith(f"empty, and this release needs {newest}: its processes do not start; run: make migrate")
    assert f"{tmp_path / 'memory.db'} is not there; " in lines[4]
    assert main(["--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["findings"]) == len(lines)
