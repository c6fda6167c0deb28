"""Schema changes of every service, by the command people use."""

from pathlib import Path
from unittest.mock import patch

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from services.common.db.migrate import (
    downgrade_database,
    main,
    pending_revision,
    schema_differences,
    upgrade_database,
)
from services.common.settings import SERVICES


@pytest.mark.parametrize("service", SERVICES)
async def test_every_history_goes_up_and_down_and_agrees_with_the_tables(service: str, database_url: str) -> None:
    assert await pending_revision(service, database_url) is not None
    await upgrade_database(service, database_url)
    assert await pending_revision(service, database_url) is None
    assert await schema_differences(service, database_url) == []
    await upgrade_database(service, database_url)
    await downgrade_database(service, database_url)
    assert await pending_revision(service, database_url) is not None
    await upgrade_database(service, database_url)


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


async def test_a_migration_may_compute_for_long_between_two_statements(postgres_url: str) -> None:
    shown: list[str] = []

    def upgrade(config: Config, _revision: str) -> None:
        shown.append(config.attributes["connection"].scalar(text("SHOW idle_in_transaction_session_timeout")))

    with patch.object(command, "upgrade", upgrade):
        await upgrade_database("auth", postgres_url)
    assert shown == ["0"]
