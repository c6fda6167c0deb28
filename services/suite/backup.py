"""Backup and restore of all that an installation on one machine keeps: `python -m services.suite.backup --help`."""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.clock import utc_now
from services.common.db.database import async_url, described_url
from services.common.db.migrate import SchemaState, schema_state
from services.common.environment import read_settings
from services.common.settings import SERVICES, CommonSettings, database_url
from services.common.startup import StartError
from services.suite.data_directory import private_directory
from services.suite.postgres import start_server

_FORMAT = 1
_DESCRIPTION = "backup.json"
_DUMP = "postgres.dump"
_COPY_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Stores:
    """Where an installation keeps what cannot be made again."""

    databases: dict[str, Path]
    """The SQLite file of each service that has one."""
    postgres: Path | None
    """Directory of the PostgreSQL server that runs on this machine only."""
    chroma: Path
    keys: Path
    elsewhere: list[str]
    """Databases that others back up."""

    @classmethod
    def of(cls, common: CommonSettings, *, postgres: bool) -> "Stores":
        """Return the stores that the settings name."""
        data = common.data_dir.absolute()
        databases: dict[str, Path] = {}
        elsewhere: list[str] = []
        # What the first one refers to is in the copies of the others, which are made later.
        for service in () if postgres else reversed(SERVICES):
            url = database_url(common, service)
            if async_url(url).get_backend_name() == "sqlite":
                databases[service] = Path(async_url(url).database or "")
            else:
                elsewhere.append(f"{service} at {described_url(url)}")
        return cls(
            databases=databases,
            postgres=data / "postgres" if postgres else None,
            chroma=data / "chroma",
            keys=common.keys_directory.absolute(),
            elsewhere=elsewhere,
        )


def back_up(common: CommonSettings, target: Path, *, postgres: bool) -> list[str]:
    """Copy an installation, which may be at work, into a new directory; return the databases that are not in it.

    Raises:
        StartError: there is nothing to copy, the directory is there, or a store cannot be read.
    """
    stores = Stores.of(common, postgres=postgres)
    if target.exists():
        raise StartError(f"{target} is there already; choose another directory")
    missing = [path for path in (*stores.databases.values(), stores.postgres) if path is not None and not path.exists()]
    if missing:
        raise StartError(f"{missing[0]} is not there: is COXSWAIN_DATA_DIR, or --db, that of the installation?")
    # Under its own name only when it is whole.
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    private_directory(partial)
    for service, file in stores.databases.items():
        _copy_sqlite(file, partial / f"{service}.db")
    if stores.postgres is not None:
        _dump(stores.postgres, partial / _DUMP)
    if stores.chroma.exists():
        for directory in sorted(file.parent for file in stores.chroma.rglob("chroma.sqlite3")):
            _copy_chroma(directory, partial / "chroma" / directory.relative_to(stores.chroma))
    # Last: they open all that was sealed before.
    if stores.keys.exists():
        _copy_files(stores.keys, partial / "keys")
    description = {"format": _FORMAT, "created": utc_now().isoformat(), "elsewhere": stores.elsewhere}
    (partial / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    partial.rename(target)
    return stores.elsewhere


def restore(common: CommonSettings, source: Path, *, postgres: bool) -> list[str]:
    """Make an installation of a backup, where there is none; return the databases that were not in it.

    Raises:
        StartError: it is no whole backup, or is of another kind, or would overwrite something.
    """
    description = _description(source)
    if postgres != (source / _DUMP).exists():
        raise StartError(f"{source} was made {'without' if postgres else 'with'} --db postgres")
    data = common.data_dir.absolute()
    for place in (data, *_outside(Stores.of(common, postgres=postgres), data)):
        if place.exists() and (place.is_file() or any(place.iterdir())):
            raise StartError(f"{place} is not empty: a restore overwrites nothing")
    partial = data.with_name(f"{data.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    private_directory(partial)
    staged = Stores.of(common.model_copy(update={"data_dir": partial}), postgres=postgres)
    for service, file in staged.databases.items():
        _copy_sqlite(source / f"{service}.db", file)
    if staged.postgres is not None:
        _load(source / _DUMP, staged.postgres)
    for name, directory in (("chroma", staged.chroma), ("keys", staged.keys)):
        if (source / name).exists():
            _copy_files(source / name, directory)
    for service, file in staged.databases.items():
        if asyncio.run(schema_state(service, f"sqlite:///{file}")) is SchemaState.AHEAD:
            print(f"{service}: the backup is of a newer release than this one", file=sys.stderr)
    if data.exists():
        data.rmdir()
    partial.rename(data)
    return list(description["elsewhere"])


def _description(source: Path) -> dict[str, Any]:
    try:
        description = json.loads((source / _DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{source} is no whole backup: it has no readable {_DESCRIPTION}") from error
    if description.get("format") != _FORMAT:
        raise StartError(f"{source} is of format {description.get('format')}; this release reads {_FORMAT}")
    return dict(description)


def _outside(stores: Stores, data: Path) -> list[Path]:
    return [path for path in (*stores.databases.values(), stores.keys) if not path.is_relative_to(data)]


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment. Neither readers nor writers of it wait."""
    private_directory(target.parent)
    try:
        with (
            contextlib.closing(sqlite3.connect(source)) as read,
            contextlib.closing(sqlite3.connect(target)) as written,
        ):
            read.backup(written)
            fault = written.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise StartError(f"{source} cannot be copied: {error}") from error
    if fault != "ok":
        raise StartError(f"{source} is damaged: {' '.join(fault.split())}")
    target.chmod(0o600)


def _copy_chroma(source: Path, target: Path) -> None:
    """Copy the directory of one ChromaDB.

    What its index does not have yet is in its database, and is taken out of there when the index is written: the copies
    fit each other if the index was not written meanwhile.
    """
    for _ in range(_COPY_ATTEMPTS):
        before = _written_times(source)
        shutil.rmtree(target, ignore_errors=True)
        private_directory(target)
        with contextlib.suppress(FileNotFoundError):
            for directory in (path for path in source.iterdir() if path.is_dir()):
                _copy_files(directory, target / directory.name)
            _copy_sqlite(source / "chroma.sqlite3", target / "chroma.sqlite3")
            if _written_times(source) == before:
                return
    raise StartError(f"{source} is written to all the time; repeat this when memories are written less")


def _written_times(directory: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("chroma.sqlite3")]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def _copy_files(source: Path, target: Path) -> None:
    """Copy a directory; nobody else may read the copy."""
    private_directory(target)
    for path in source.iterdir():
        if path.is_dir():
            _copy_files(path, target / path.name)
        elif path.name.endswith(".sqlite3"):
            _copy_sqlite(path, target / path.name)
        elif path.is_file():
            shutil.copyfile(path, target / path.name)
            (target / path.name).chmod(0o600)


def _dump(directory: Path, file: Path) -> None:
    with _server(directory) as url:
        _postgres_program("pg_dump", "--format=custom", "--no-owner", f"--file={file}", url)
    file.chmod(0o600)


def _load(file: Path, directory: Path) -> None:
    with _server(directory) as url:
        _postgres_program(
            "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", f"--dbname={url}", str(file)
        )


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[str]:
    """Yield the URL of the server of a directory, which is left running if it ran."""
    with tempfile.TemporaryDirectory(prefix="coxswain-backup-") as locks:
        os.environ.setdefault("XDG_RUNTIME_DIR", locks)
        server = start_server(directory)
        try:
            yield str(server.get_uri())
        finally:
            server.cleanup()


def _postgres_program(name: str, *arguments: str) -> None:
    from pgserver._commands import POSTGRES_BIN_PATH

    command = [str(POSTGRES_BIN_PATH / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - only paths of our own
    if done.returncode:
        raise StartError(f"{name} failed: {done.stderr.strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.suite.backup",
        description="Copies all that the suite keeps in COXSWAIN_DATA_DIR, also while it runs, and makes an "
        "installation of such a copy. docs/backup.md tells of other installations.",
    )
    parser.add_argument("action", choices=["backup", "restore"])
    parser.add_argument("directory", type=Path, help="directory of the copy; a backup makes it")
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite", help="as the suite is started")
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    try:
        common = read_settings(CommonSettings)
        act = back_up if arguments.action == "backup" else restore
        elsewhere = act(common, arguments.directory.absolute(), postgres=arguments.db == "postgres")
    except (StartError, OSError) as error:
        print(f"{arguments.action} failed: {error}", file=sys.stderr)
        return 2
    made = arguments.directory if arguments.action == "backup" else common.data_dir
    print(f"{made} is made; it holds keys and credentials: keep it as you keep those")
    for database in elsewhere:
        print(f"not in it: the database of {database}; docs/backup.md says how")
    return 0


if __name__ == "__main__":
    sys.exit(main())
