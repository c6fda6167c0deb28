"""Looks at the databases that the settings name: `python -m services.common.db.doctor --help`."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import text

from services.common.db.connection_budget import read_connection_budget
from services.common.db.database import Database, described_url, sqlite_file
from services.common.db.migrate import SchemaState, newest_revision, schema_revision, state_of
from services.common.db.start import database_faults, wait_for_database
from services.common.environment import read_settings
from services.common.settings import SERVICES, CommonSettings, database_url, direct_database_url
from services.common.startup import StartError

OK, WARN, FAIL = "ok", "warn", "fail"
_CLOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    service: str
    check: str
    status: str
    text: str
    remedy: str = ""


async def examine(common: CommonSettings, service: str) -> AsyncIterator[Finding]:
    """Yield what there is to say about the database of a service. Nothing is changed, and no migration waited for."""
    url = database_url(common, service)
    file = sqlite_file(url)
    if file is not None and not file.exists():
        # A connection would make it.
        remedy = "check COXSWAIN_DATA_DIR; the service makes it when it starts, and so does: make migrate"
        yield Finding(service, "database", FAIL, f"{file} is not there", remedy)
        return
    try:
        with database_faults(service, url):
            reached = await wait_for_database(url, service, 0)
            revision = await schema_revision(service, url)
    except StartError as error:
        yield Finding(service, "database", FAIL, str(error), "mend that; processes wait for it and then end")
        return
    yield Finding(service, "database", OK, described_url(url))
    yield _of_schema(service, revision)
    if reached.pooler and service == "orchestrator" and not direct_database_url(common, service):
        remedy = "set COXSWAIN_ORCHESTRATOR_DIRECT_DATABASE_URL"
        yield Finding(service, "pooler", WARN, "executions start late, and dead hosts are noticed late", remedy)
    database = Database(url, service, null_pool=True, pooler=True)
    if database.dialect == "postgresql":
        async for finding in _of_server(database, service):
            yield finding
    await database.close()


def _of_schema(service: str, revision: str | None) -> Finding:
    newest = newest_revision(service)
    match state_of(service, revision):
        case SchemaState.CURRENT:
            return Finding(service, "schema", OK, f"at revision {newest}, the newest of this release")
        case SchemaState.AHEAD:
            text = f"at revision {revision} of a newer release; this one knows {newest}, and works on it"
            return Finding(service, "schema", WARN, text, "finish the rollout; after a rollback nothing has to be done")
        case SchemaState.BEHIND:
            stands = "empty" if revision is None else f"at revision {revision}"
            text = f"{stands}, and this release needs {newest}: its processes do not start"
            return Finding(service, "schema", FAIL, text, "run: make migrate")


async def _of_server(database: Database, service: str) -> AsyncIterator[Finding]:
    async with database.read() as connection:
        before, started = datetime.now(UTC), time.monotonic()
        server_time: datetime = await connection.scalar(text("SELECT clock_timestamp()"))
        travelled = time.monotonic() - started
    # It was asked somewhere in between.
    difference = (server_time - before).total_seconds() - travelled / 2
    apart = abs(difference) > _CLOCK_SECONDS + travelled / 2
    remedy = "synchronise both: leases, schedules and tokens depend on it" if apart else ""
    behind = "behind" if difference > 0 else "ahead of"
    said = f"this machine is {abs(difference):.1f} s {behind} the server" if apart else "the server's is the same"
    yield Finding(service, "clock", WARN if apart else OK, said, remedy)
    budget = await read_connection_budget(database)
    if budget is None:
        return
    counted = f"the server allows {budget.allowed}; pools may open {budget.pooled}, {budget.others} others are open"
    if budget.missing:
        remedy = "raise max_connections, or put a pooler in between: deploy/README.md has the sums"
        yield Finding(service, "connections", WARN, f"{budget.missing} are missing: {counted}", remedy)
    else:
        yield Finding(service, "connections", OK, counted)


async def _main(*, as_json: bool) -> int:
    common = read_settings(CommonSettings)
    findings = [finding for service in SERVICES async for finding in examine(common, service)]
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        for found in findings:
            said = f"{found.status:<5} {found.service:<13} {found.check:<12} {found.text}"
            print(f"{said}; {found.remedy}" if found.remedy else said)
    return int(any(finding.status == FAIL for finding in findings))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report and return the exit code: 1 when something fails."""
    parser = argparse.ArgumentParser(prog="python -m services.common.db.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    try:
        return asyncio.run(_main(as_json=arguments.json))
    except StartError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
