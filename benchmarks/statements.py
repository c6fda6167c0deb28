"""Statements of an execution of a one-task crew on PostgreSQL, by table, beyond those of an idle installation.

Counted in the log of a server of its own, so that nothing is left out: BEGIN and COMMIT of transactions, what drivers
send by themselves, every service. Executions run one after the other, each watched to its end.
"""

import asyncio
import collections
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
from pgserver.postgres_server import get_server

from benchmarks.crew_run import crew
from coxswain.orchestrator.v1 import execution_pb2
from tests.integration.worker.installation import Installation, install
from tests.support.llm_script import Reply

EXECUTIONS = 20
IDLE_SECONDS = 20
_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+\"?((?:\w+\.)?\w+)")


class Log:
    """The server's log, read from where the last count ended, if it logs all statements."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = file.stat().st_size

    def count(self, kind: Callable[[str], str] | None = None) -> collections.Counter[str]:
        """Return how many statements came since the last count, by verb and table or what `kind` says of their text."""
        kind = kind or _kind
        with self._file.open() as log:
            log.seek(self._offset)
            text = log.read()
            self._offset = log.tell()
        return collections.Counter(
            kind(" ".join(found.group(1).split())) for found in _STATEMENT.finditer(_joined(text))
        )


def _joined(text: str) -> str:
    """Put statements of several lines on one: continuation lines begin with a tab."""
    return re.sub(r"\n\t", " ", text)


def _kind(statement: str) -> str:
    verb = statement.partition(" ")[0].rstrip(";").upper()
    table = _TABLE.search(statement) if verb in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} else None
    return f"{verb} {table.group(1)}" if table else verb


async def measure(data_dir: Path, url: str, log_file: Path) -> None:
    async with install(data_dir, database_url=url, COXSWAIN_LOG_LEVEL="WARNING") as installation:
        await installation.worker()
        installation.llm.on(Reply(text="An answer."))
        first = await installation.start(crew(1))
        await installation.finished(first.id)
        log = Log(log_file)
        await asyncio.sleep(IDLE_SECONDS)
        idle = log.count()
        began = time.perf_counter()
        await _run(installation, first.crew_id)
        seconds = time.perf_counter() - began
        busy = log.count()
    _report(busy, idle, seconds)


async def _run(installation: Installation, crew_id: str) -> None:
    for _ in range(EXECUTIONS):
        request = execution_pb2.StartExecutionRequest(crew_id=crew_id)
        started = await installation.executions().StartExecution(request)
        await installation.watch(started.execution.id)


def _report(busy: collections.Counter[str], idle: collections.Counter[str], seconds: float) -> None:
    own = {kind: (busy[kind] - idle[kind] * seconds / IDLE_SECONDS) / EXECUTIONS for kind in busy}
    for kind, count in sorted(own.items(), key=lambda item: -item[1]):
        if count >= 0.1:
            print(f"{kind:44} {count:6.1f}")
    print(f"{'statements of one execution':44} {sum(count for count in own.values() if count > 0):6.1f}")
    print(f"{'statements of an idle installation, per second':44} {sum(idle.values()) / IDLE_SECONDS:6.1f}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="coxswain-bench-") as directory:
        server = get_server(Path(directory) / "pg")
        try:
            asyncio.run(prepare(server.get_uri()))
            url = server.get_uri().replace("/postgres?", "/bench?")
            data_dir = Path(directory) / "data"
            data_dir.mkdir()
            asyncio.run(measure(data_dir, url, Path(directory) / "pg" / "log"))
        finally:
            server.cleanup()


async def prepare(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET log_statement = 'all'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("CREATE DATABASE bench")
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
