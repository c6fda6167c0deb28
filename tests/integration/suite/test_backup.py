"""A backup holds all that an installation keeps, and a restore overwrites nothing."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import SERVICES, CommonSettings
from services.suite import backup
from services.suite.backup import Stores
from services.suite.postgres import start_server
from tests.support.child_process import run_python


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data directory of an installation with a ChromaDB, as far as a backup looks at it."""
    data = tmp_path_factory.mktemp("template") / "data"
    data.mkdir()
    for service in SERVICES:
        _make_database(data / f"{service}.db")
        ServiceIdentity.load(data / "keys", service, create=True)
    (data / "keys" / "ring").write_text("a key that opens everything")
    index = data / "chroma" / "sales" / "coxswain_default_1" / "segment"
    index.mkdir(parents=True)
    (index / "data_level0.bin").write_bytes(b"vectors")
    _make_database(index.parent / "chroma.sqlite3")
    for passing in "run/internal.sock", "suite.lock", "crewai/tmp1/file", "orchestrator-leases.db":
        (data / passing).parent.mkdir(exist_ok=True, parents=True)
        (data / passing).touch()
    return data


def _make_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE groups (id)")


@pytest.fixture
def data(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an installation of this test's own, which the settings name."""
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(tmp_path / "data"))
    shutil.copytree(template, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def at_work(data: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection that has stored one group, and is storing another."""
    insert = "INSERT INTO groups VALUES (?)"
    with closing(sqlite3.connect(data / "auth.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(insert, ["stored"])
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(insert, ["being stored"])
        yield connection


def groups(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM groups ORDER BY id")]


def run(*arguments: object) -> int:
    return backup.main([str(argument) for argument in arguments])


def test_an_installation_at_work_comes_back_whole_and_private(
    data: Path, at_work: sqlite3.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("backup", tmp_path / "copy") == 0
    assert (tmp_path / "copy" / "auth.db").read_bytes()[18:20] == b"\1\1", "not WAL, which a read-only place refuses"
    at_work.execute("COMMIT")
    assert groups(data / "auth.db") == ["being stored", "stored"]
    shutil.rmtree(data)
    assert run("restore", tmp_path / "copy") == 0
    assert groups(data / "auth.db") == ["stored"]
    assert (data / "keys" / "ring").read_text() == "a key that opens everything"
    assert (data / "chroma/sales/coxswain_default_1/segment/data_level0.bin").read_bytes() == b"vectors"
    assert {path.name for path in data.iterdir()} == {"chroma", "keys", *(f"{service}.db" for service in SERVICES)}
    for path in (data, tmp_path / "copy", *data.rglob("*"), *(tmp_path / "copy").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert "opens everything" not in "".join(capsys.readouterr())
    assert not list(tmp_path.glob("*.partial"))


def test_nothing_is_overwritten(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    assert run("backup", copy) == 0
    assert run("backup", copy) == 2
    assert run("restore", copy) == 2
    shutil.rmtree(data)
    (data / "keys").mkdir(parents=True)
    assert run("restore", copy) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"backup failed: {copy} is there already; choose another directory",
        f"restore failed: {data} is not empty: a restore overwrites nothing",
        f"restore failed: {data} is not empty: a restore overwrites nothing",
    ]


def test_what_is_no_whole_backup_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    assert run("backup", copy) == 0
    with (data / "memory.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"x" * 4096)
    assert run("backup", tmp_path / "second") == 2
    assert not (tmp_path / "second").exists()
    shutil.rmtree(data)
    assert run("backup", tmp_path / "third") == 2
    assert run("restore", copy, "--db", "postgres") == 2
    (copy / "models.db").rename(tmp_path / "models.db")
    assert run("restore", copy) == 2
    assert not (copy / "models.db").exists()
    (copy / "backup.json").unlink()
    assert run("restore", copy) == 2
    assert not data.exists()
    damaged, missing, other, lacking, partial = capsys.readouterr().err.splitlines()
    assert damaged.startswith(f"backup failed: {data / 'memory.db'} ")
    assert missing == (
        f"backup failed: {data / 'orchestrator.db'} is not there: "
        "is COXSWAIN_DATA_DIR, or --db, that of the installation?"
    )
    assert other == f"restore failed: {copy} was made without --db postgres"
    assert lacking == f"restore failed: {copy} is no whole backup: models.db is missing"
    assert partial == f"restore failed: {copy} is no whole backup: it has no readable backup.json"


def test_a_directory_that_may_be_a_mount_point_is_filled_from_within(data: Path, tmp_path: Path) -> None:
    assert run("backup", tmp_path / "copy") == 0
    shutil.rmtree(data)
    (data / "lost+found").mkdir(parents=True)
    data.chmod(0o755)
    before = data.stat()
    assert run("restore", tmp_path / "copy") == 0
    assert (data.stat().st_ino, data.stat().st_mode) == (before.st_ino, before.st_mode)
    stores = {"chroma", "keys", *(f"{service}.db" for service in SERVICES)}
    assert {path.name for path in data.iterdir()} == {"lost+found", *stores}


def test_stores_with_places_of_their_own_come_back_with_the_rest_or_not_at_all(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    auth, models, keys = shared / "auth.db", data / "more" / "models.db", shared / "deep" / "keys"
    models.parent.mkdir()
    keys.parent.mkdir()
    for file in auth, models:
        (data / file.name).rename(file)
        monkeypatch.setenv(f"COXSWAIN_{file.stem.upper()}_DATABASE_URL", f"sqlite:///{file}")
    (data / "keys").rename(keys)
    monkeypatch.setenv("COXSWAIN_KEYS_DIR", str(keys))
    assert run("backup", tmp_path / "copy") == 0
    for directory in data, keys.parent:
        shutil.rmtree(directory)
    auth.unlink()

    memory = (tmp_path / "copy" / "memory.db").read_bytes()
    (tmp_path / "copy" / "memory.db").write_bytes(memory[:4096] + b"x" * 4096)
    assert run("restore", tmp_path / "copy") == 2
    assert not data.exists()
    assert [path for path in shared.rglob("*") if not path.is_dir()] == []
    (tmp_path / "copy" / "memory.db").write_bytes(memory)
    auth.with_name("auth.db-wal").touch()
    assert run("restore", tmp_path / "copy") == 2
    auth.with_name("auth.db-wal").unlink()
    assert run("restore", tmp_path / "copy") == 0
    assert groups(auth) == groups(models) == []
    assert (keys / "ring").read_text() == "a key that opens everything"
    assert {path.name for path in shared.iterdir()} == {"auth.db", "deep"}
    assert shared.stat().st_mode & 0o777 == 0o755


def test_a_restore_refuses_settings_of_another_kind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    everything, without = tmp_path / "everything", tmp_path / "without"
    assert run("backup", everything) == 0
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("COXSWAIN_MODELS_DATABASE_URL", "postgresql://db.example.com/cox")
        assert run("backup", without) == 0
        shutil.rmtree(data)
        assert run("restore", everything) == 2
    assert run("restore", without) == 2
    assert not data.exists()
    has_one, has_none = capsys.readouterr().err.splitlines()
    assert has_one.startswith(f"restore failed: {everything} has a models.db, unlike the settings: ")
    assert has_none.startswith(f"restore failed: {without} has no models.db, unlike the settings: ")


def test_databases_elsewhere_are_named_without_their_passwords(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_ORCHESTRATOR_DATABASE_URL", "postgresql://coxswain:hunter2@db.example.com/cox")
    assert run("backup", tmp_path / "copy") == 0
    assert not (tmp_path / "copy" / "orchestrator.db").exists()
    told = "not in it: the database of orchestrator at db.example.com:5432/cox; docs/backup.md says how"
    assert capsys.readouterr().out.splitlines()[1:] == [told]
    assert data.exists()


def test_a_database_elsewhere_and_a_key_ring_elsewhere_are_named_beside_a_postgresql_of_the_suites_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COXSWAIN_MODELS_DATABASE_URL", "postgresql://coxswain:hunter2@db.example.com/cox")
    database = "the database of models at db.example.com:5432/cox"
    common = CommonSettings(data_dir=Path("data"))
    monkeypatch.setenv("COXSWAIN_AUTH_KEY_RING_FILE", "data/keys/ring")
    assert Stores.of(common, postgres=True).elsewhere == [database]
    monkeypatch.setenv("COXSWAIN_AUTH_KEY_RING_FILE", "/secrets/ring")
    assert Stores.of(common, postgres=True).elsewhere == [database, "the key ring /secrets/ring"]
    monkeypatch.delenv("COXSWAIN_AUTH_KEY_RING_FILE")
    monkeypatch.setenv("COXSWAIN_AUTH_KEY_RING", "k1:c2VjcmV0")
    elsewhere = [database, "the key ring in COXSWAIN_AUTH_KEY_RING"]
    assert Stores.of(common, postgres=True).elsewhere == elsewhere


def test_an_index_that_is_written_meanwhile_is_copied_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = data / "chroma" / "sales" / "coxswain_default_1" / "segment" / "data_level0.bin"
    copy_sqlite: Any = backup._copy_sqlite
    copied: list[Path] = []

    def copy(source: Path, target: Path, how: str) -> None:
        copy_sqlite(source, target, how)
        if source.name == "chroma.sqlite3":
            copied.append(source)
            if len(copied) == 1:
                index.write_bytes(b"more vectors")

    monkeypatch.setattr(backup, "_copy_sqlite", copy)
    monkeypatch.setattr(backup, "_COPY_PAUSE_SECONDS", 0)
    assert run("backup", tmp_path / "copy") == 0
    assert len(copied) == 2
    assert (tmp_path / "copy" / index.relative_to(data)).read_bytes() == b"more vectors"


def test_an_index_whose_file_vanishes_meanwhile_is_copied_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_times, looks = backup._written_times, []

    def look(directory: Path) -> dict[Path, tuple[int, int]]:
        looks.append(directory)
        if len(looks) == 1:
            raise FileNotFoundError
        return written_times(directory)

    monkeypatch.setattr(backup, "_written_times", look)
    monkeypatch.setattr(backup, "_COPY_PAUSE_SECONDS", 0)
    assert run("backup", tmp_path / "copy") == 0
    assert len(looks) == 3
    assert data.exists()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory below one that others may enter: root's servers run as another user."""
    with tempfile.TemporaryDirectory(prefix="coxswain-backup-") as directory:
        yield Path(directory)


@pytest.mark.large
def test_a_postgresql_of_the_suites_own_comes_back(
    open_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, copy = open_path / "data", open_path / "copy"
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(data))
    data.mkdir()
    at_work = start_server(data / "postgres")
    at_work.psql("CREATE SCHEMA auth; CREATE TABLE auth.groups AS SELECT 'stored' AS id")
    # In a process of its own: within one, pgserver has one handle of each server.
    arguments = ["-m", "services.suite.backup", "backup", str(copy), "--db", "postgres"]
    assert run_python(arguments, environment=dict(os.environ))[0] == 0
    assert "stored" in at_work.psql("SELECT id FROM auth.groups"), "it goes on"
    at_work.cleanup()
    shutil.rmtree(data)

    assert run("restore", copy) == 2
    assert run("restore", copy, "--db", "postgres") == 0
    again = start_server(data / "postgres")
    try:
        assert "stored" in again.psql("SELECT id FROM auth.groups")
    finally:
        again.cleanup()
    assert (copy / "postgres.dump").stat().st_mode & 0o777 == 0o600
    assert "was made with --db postgres" in capsys.readouterr().err
