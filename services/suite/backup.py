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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.auth.settings import AuthSettings
from services.common.clock import utc_now
from services.common.db.database import described_url, sqlite_file
from services.common.db.migrate import SchemaState, schema_state
from services.common.environment import read_settings
from services.common.settings import SERVICES, CommonSettings, ServiceSettings, database_url
from services.common.startup import StartError
from services.suite.data_directory import private_directory
from services.suite.postgres import start_server
from services.suite.staging import staged

_FORMAT = 2
_DESCRIPTION = "backup.json"
_DUMP, _CHROMA, _KEYS = "postgres.dump", "chroma", "keys"
_COPY_ATTEMPTS = 20
_COPY_PAUSE_SECONDS = 0.2
# How SQLite opens a file that may be in use, and one in a backup, which may lie where nothing can be written. Neither
# makes a file that is not there.
_IN_USE, _IN_BACKUP = "mode=rw", "mode=ro&immutable=1"


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
    """Databases and keys that others back up, for people."""

    @classmethod
    def of(cls, common: CommonSettings, *, postgres: bool) -> "Stores":
        """Return the stores that the settings name."""
        data, keys = common.data_dir.absolute(), common.keys_directory.absolute()
        databases: dict[str, Path] = {}
        elsewhere: list[str] = []
        # What the first one refers to is in the copies of the others, which are made later.
        for service in reversed(SERVICES):
            if postgres and not ServiceSettings.of(service).database_url:
                continue
            url = database_url(common, service)
            file = sqlite_file(url)
            if file is not None:
                databases[service] = file.absolute()
            else:
                elsewhere.append(f"the database of {service} at {described_url(url)}")
        auth = read_settings(AuthSettings)
        if auth.key_ring.get_secret_value():
            elsewhere.append("the key ring in COXSWAIN_AUTH_KEY_RING")
        elif auth.key_ring_file is not None and not auth.key_ring_file.absolute().is_relative_to(keys):
            elsewhere.append(f"the key ring {auth.key_ring_file}")
        return cls(
            databases=databases,
            postgres=data / "postgres" if postgres else None,
            chroma=data / "chroma",
            keys=keys,
            elsewhere=elsewhere,
        )

    def by_name(self) -> dict[str, Path]:
        """Return the stores by their names in a backup."""
        return {
            **({} if self.postgres is None else {_DUMP: self.postgres}),
            **{f"{service}.db": file for service, file in self.databases.items()},
            _CHROMA: self.chroma,
            _KEYS: self.keys,
        }


def back_up(common: CommonSettings, target: Path, *, postgres: bool) -> list[str]:
    """Copy an installation, which may be at work, into a new directory; return what others back up.

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
    if stores.postgres is not None:
        _dump(stores.postgres, partial / _DUMP)
    for service, file in stores.databases.items():
        _copy_sqlite(file, partial / f"{service}.db", _IN_USE)
    if stores.chroma.exists():
        for directory in sorted(file.parent for file in stores.chroma.rglob("chroma.sqlite3")):
            _copy_chroma(directory, partial / _CHROMA / directory.relative_to(stores.chroma))
    # Last: they open all that was sealed before.
    if stores.keys.exists():
        _copy_files(stores.keys, partial / _KEYS)
    description = {
        "format": _FORMAT,
        "created": utc_now().isoformat(),
        "stores": sorted(path.name for path in partial.iterdir()),
        "elsewhere": stores.elsewhere,
    }
    (partial / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    partial.rename(target)
    return stores.elsewhere


def restore(common: CommonSettings, source: Path, *, postgres: bool) -> list[str]:
    """Make an installation of a backup, where there is none; return what is not in the backup.

    Raises:
        StartError: it is no whole backup, or is of another kind, or would overwrite something.
    """
    description = _description(source)
    stored: list[str] = description["stores"]
    if postgres != (_DUMP in stored):
        raise StartError(f"{source} was made {'without' if postgres else 'with'} --db postgres")
    stores = Stores.of(common, postgres=postgres)
    places = stores.by_name()
    # An installation may have no ChromaDB, and its keys elsewhere.
    different = sorted((places.keys() ^ stored) - {_CHROMA, _KEYS})
    if different:
        raise StartError(
            f"{source} has {'no' if different[0] in places else 'a'} {different[0]}, unlike the settings: "
            "COXSWAIN_DATABASE_URL and COXSWAIN_<SERVICE>_DATABASE_URL have to put the same services on SQLite"
        )
    data = common.data_dir.absolute()
    with staged(data, places.values()) as staged_path:
        private_directory(staged_path(data))
        for name in stored:
            _restore_store(source / name, staged_path(places[name]))
        for service, file in stores.databases.items():
            if asyncio.run(schema_state(service, f"sqlite:///{staged_path(file)}")) is SchemaState.AHEAD:
                print(f"{service}: the backup is of a newer release than this one", file=sys.stderr)
    return list(description["elsewhere"])


def _restore_store(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.name == _DUMP:
        _load(source, target)
    elif source.is_dir():
        _copy_files(source, target)
    else:
        _copy_sqlite(source, target, _IN_BACKUP)


def _description(source: Path) -> dict[str, Any]:
    try:
        description = json.loads((source / _DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{source} is no whole backup: it has no readable {_DESCRIPTION}") from error
    if description.get("format") != _FORMAT:
        raise StartError(f"{source} is of format {description.get('format')}; this release reads {_FORMAT}")
    missing = [name for name in description["stores"] if not (source / name).exists()]
    if missing:
        raise StartError(f"{source} is no whole backup: {missing[0]} is missing")
    return dict(description)


def _copy_sqlite(source: Path, target: Path, how: str) -> None:
    """Copy a database as it is at one moment. Neither readers nor writers of it wait."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?{how}", uri=True)) as read,
            contextlib.closing(sqlite3.connect(target)) as written,
        ):
            read.backup(written)
            # A file in WAL mode cannot be read where nothing can be written.
            written.execute("PRAGMA journal_mode=DELETE")
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
        shutil.rmtree(target, ignore_errors=True)
        private_directory(target)
        # Files of an index come and go while it is written.
        with contextlib.suppress(FileNotFoundError):
            before = _written_times(source)
            for directory in (path for path in source.iterdir() if path.is_dir()):
                _copy_files(directory, target / directory.name)
            _copy_sqlite(source / "chroma.sqlite3", target / "chroma.sqlite3", _IN_USE)
            if _written_times(source) == before:
                return
        time.sleep(_COPY_PAUSE_SECONDS)
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
            _copy_sqlite(path, target / path.name, _IN_BACKUP)
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
    for store in elsewhere:
        print(f"not in it: {store}; docs/backup.md says how")
    return 0


if __name__ == "__main__":
    sys.exit(main())
