"""Schema changes of each service: `python -m services.common.db.migrate --help`."""

import argparse
import asyncio
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations.ops import MigrationScript
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text

from services.common.db.database import Database
from services.common.db.start import database_faults, wait_for_database
from services.common.environment import read_settings
from services.common.settings import SERVICES, CommonSettings, database_url, direct_database_url
from services.common.startup import StartError

_SERVICES_DIRECTORY = Path(__file__).resolve().parents[2]


def alembic_config(service: str, connection: Connection | None = None) -> Config:
    """Return the configuration of one service's history."""
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).resolve().parent / "alembic"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(_SERVICES_DIRECTORY / service / "migrations" / "versions"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = _metadata(service)
    return config


def _metadata(service: str) -> MetaData:
    metadata: MetaData = importlib.import_module(f"services.{service}.tables").metadata
    return metadata


class SchemaState(StrEnum):
    """How the schema of a service stands to the migrations of this release."""

    BEHIND = "behind"
    """It is empty, or at an earlier revision."""
    CURRENT = "current"
    AHEAD = "ahead"
    """It is at a revision that this release does not know, so a newer release's.

    Migrations only add what the release before them can ignore: this release works on it, and leaves it alone.
    """


async def upgrade_database(service: str, url: str, revision: str = "head") -> SchemaState:
    """Bring a service's schema to a revision, unless it is ahead; return how it stood before.

    Processes that do so at once take turns.
    """
    states: list[SchemaState] = []

    def upgrade(connection: Connection) -> None:
        states.append(state_of(service, _current_revision(connection)))
        if states[0] is SchemaState.BEHIND:
            command.upgrade(alembic_config(service, connection), revision)

    await _on_schema(service, url, upgrade)
    return states[0]


async def downgrade_database(service: str, url: str, revision: str = "base") -> None:
    """Take a service's schema back to a revision."""
    await _on_schema(service, url, lambda connection: command.downgrade(alembic_config(service, connection), revision))


async def schema_state(service: str, url: str) -> SchemaState:
    """Return how a schema stands; see `schema_revision`."""
    return state_of(service, await schema_revision(service, url))


async def schema_revision(service: str, url: str) -> str | None:
    """Return the revision that a schema is at, None when it is empty.

    It only reads: it needs no right to change anything, and waits for no migration.
    """
    database = Database(url, service, null_pool=True, pooler=True)
    try:
        async with database.read() as connection:
            if database.dialect == "postgresql":
                await connection.execute(text(f'SET LOCAL search_path = "{service}"'))
            return await connection.run_sync(_current_revision)
    finally:
        await database.close()


def state_of(service: str, revision: str | None) -> SchemaState:
    """Return how a schema stands that is at a revision."""
    newest, *older = _revisions(service)
    if revision == newest:
        return SchemaState.CURRENT
    return SchemaState.BEHIND if revision in {None, *older} else SchemaState.AHEAD


def newest_revision(service: str) -> str:
    """Return the newest revision that this release knows of a service."""
    return _revisions(service)[0]


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _revisions(service: str) -> list[str]:
    """Return the revisions of a service, newest first: reading them costs more than asking a database for its own."""
    return [script.revision for script in ScriptDirectory.from_config(alembic_config(service)).walk_revisions()]


async def schema_differences(service: str, url: str) -> list[object]:
    """Return what autogenerate would change: nothing when migrations and tables agree."""
    differences: list[object] = []

    def compare(connection: Connection) -> None:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": _is_described_by_tables}
        )
        differences.extend(compare_metadata(context, _metadata(service)))

    await _on_schema(service, url, compare)
    return differences


def _is_described_by_tables(_item: object, name: str | None, _kind: str, reflected: bool, _other: object) -> bool:
    """Leave out indexes for searching texts, which SQLAlchemy's tables cannot describe: migrations name them _fts."""
    return not (reflected and name is not None and "_fts" in name)


async def _on_schema(service: str, url: str, work: Callable[[Connection], object]) -> None:
    database = Database(url, service, null_pool=True, pooler=True)
    try:
        async with database.write() as connection:
            if database.dialect == "postgresql":
                # A migration may compute for minutes between two statements, and names no schema.
                await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('coxswain-migrate'))"))
                await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{service}"'))
                await connection.execute(text(f'SET LOCAL search_path = "{service}"'))
            await connection.run_sync(work)
    finally:
        await database.close()


async def _seed(service: str, url: str) -> bool:
    """Write a service's starting data, where it has any; repeating it changes nothing."""
    name = f"services.{service}.seed"
    if importlib.util.find_spec(name) is None:
        return False
    database = Database(url, service, null_pool=True, pooler=True)
    try:
        await importlib.import_module(name).seed(database)
    finally:
        await database.close()
    return True


_AFTER_UPGRADE = {
    SchemaState.BEHIND: "at the newest revision",
    SchemaState.CURRENT: "at the newest revision",
    SchemaState.AHEAD: "ahead of this release; left as it is",
}


async def _main(arguments: argparse.Namespace) -> int:
    common = read_settings(CommonSettings)
    for service in arguments.services or SERVICES:
        url = arguments.url or direct_database_url(common, service) or database_url(common, service)
        with database_faults(service, url):
            await wait_for_database(url, service, common.database_wait_seconds)
            if not await _act(arguments, service, url):
                return 1
    return 0


async def _act(arguments: argparse.Namespace, service: str, url: str) -> bool:
    """Do one action for one service; return whether all is as asked."""
    match arguments.action:
        case "upgrade":
            print(f"{service}: {_AFTER_UPGRADE[await upgrade_database(service, url)]}")
        case "downgrade":
            if await schema_state(service, url) is SchemaState.AHEAD:
                print(f"{service}: ahead of this release; downgrade with the release that made it", file=sys.stderr)
                return False
            await downgrade_database(service, url, arguments.revision)
            print(f"{service}: at {arguments.revision}")
        case "seed":
            await upgrade_database(service, url)
            if await _seed(service, url):
                print(f"{service}: seeded")
        case "check":
            state = await schema_state(service, url)
            if state is SchemaState.BEHIND:
                print(f"{service}: not at the newest revision; run: make migrate", file=sys.stderr)
                return False
            print(f"{service}: {_AFTER_UPGRADE[state]}")
        case "revision":
            await upgrade_database(service, url)
            await _on_schema(service, url, _revise(service, arguments.message))
    return True


def _revise(service: str, message: str) -> Callable[[Connection], object]:
    def drop_empty(_context: MigrationContext, _revision: object, directives: list[MigrationScript]) -> None:
        operations = directives[0].upgrade_ops
        if operations is not None and operations.is_empty():
            directives.clear()

    def revise(connection: Connection) -> None:
        config = alembic_config(service, connection)
        number = sum(1 for _ in ScriptDirectory.from_config(config).walk_revisions()) + 1
        written = command.revision(
            config,
            message=message,
            autogenerate=True,
            rev_id=f"{number:04d}",
            process_revision_directives=drop_empty,
        )
        scripts = [script for script in (written if isinstance(written, list) else [written]) if script is not None]
        for script in scripts:
            print(f"{service}: wrote {script.path}; read it before you commit it")
        if not scripts:
            print(f"{service}: tables and migrations agree, there is nothing to write")

    return revise


def main(argv: Sequence[str] | None = None) -> int:
    """Run one action and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.common.db.migrate", description=__doc__)
    parser.add_argument("action", choices=["upgrade", "downgrade", "check", "seed", "revision"])
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"of {', '.join(SERVICES)}; all when left out")
    parser.add_argument("--message", "-m", default="", help="what a new revision changes")
    parser.add_argument("--revision", default="base", help="where a downgrade ends (default: base)")
    parser.add_argument("--url", default="", help="database URL instead of the configured one")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.services) - set(SERVICES)
    if unknown:
        parser.error(f"unknown service {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    if arguments.action == "revision" and (len(arguments.services) != 1 or not arguments.message):
        parser.error("a revision needs one SERVICE and a --message")
    os.umask(0o077)
    try:
        return asyncio.run(_main(arguments))
    except StartError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
