"""All services, the tool gateway and a worker host behind a pooler that gives sessions to transactions."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskSpec
from services.common.db.database import Database
from services.common.db.start import wait_for_database
from services.common.hosting import Host
from services.common.settings import CommonSettings, direct_database_url
from services.common.startup import StartError
from tests.support.harness import ALICE
from tests.support.pooler import Pooler, pooler_before
from tests.support.service_processes import ServiceProcesses


@contextmanager
def pooler_in_thread(postgres_url: str) -> Iterator[Pooler]:
    """A pooler on an event loop of its own, as its clients are processes."""
    url = make_url(postgres_url)
    socket = f"{url.query['host']}/.s.PGSQL.{url.port or 5432}"
    ready, done = threading.Event(), asyncio.Event()
    found: list[Pooler] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with pooler_before(socket, str(url.username), str(url.database)) as pooler:
            found.append(pooler)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(60)


@pytest.fixture
def pooler(empty_postgres_url: str) -> Iterator[Pooler]:
    with pooler_in_thread(empty_postgres_url) as running:
        yield running


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("null_pool", "direct"), [("false", True), ("true", False)])
def test_crews_run_behind_a_pooler(
    pooler: Pooler, empty_postgres_url: str, null_pool: str, direct: bool, tmp_path: Path
) -> None:
    environment = {"USE_NULLPOOL": null_pool}
    if direct:
        environment["COXSWAIN_DIRECT_DATABASE_URL"] = empty_postgres_url
    installation = ServiceProcesses(tmp_path / "data", pooler.url, environment, workers=1)
    with installation.running(), installation.caller(ALICE) as alice:
        agent = AgentSpec(name="reader", role="r", goal="g", backstory="b", model="offline/extract")
        task = TaskSpec(
            name="read", description="Write 2 bullets.\n\n{text}", expected_output="bullets", agent="reader"
        )
        crew = alice.orchestrator.apply_crew(CrewSpec(name="brief", agents=[agent], tasks=[task])).crew
        text = "The harbour was closed for two days. The storm took the roof. Three ships waited outside."
        started = [alice.orchestrator.start(crew.id, {"text": text}) for _ in range(4)]
        ends = [list(alice.orchestrator.watch(execution.id))[-1].WhichOneof("event") for execution in started]
    assert ends == ["execution_succeeded"] * 4
    assert pooler.given > 100
    assert not pooler.refused
    assert ("pooler_without_direct_database" in installation.logs) is not direct
    with sa.create_engine(make_url(empty_postgres_url).set(drivername="postgresql+psycopg")).connect() as connection:
        tables = sa.text("SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname NOT LIKE 'pg_%'")
        assert set(connection.scalars(tables)) - {"information_schema"} == {"auth", "memory", "models", "orchestrator"}


async def test_a_pooler_is_known_from_a_server(pooler: Pooler, empty_postgres_url: str) -> None:
    through, directly = [await wait_for_database(url, "auth", 0) for url in (pooler.url, empty_postgres_url)]
    assert (through.pooler, directly.pooler) == (True, False)
    assert through.database == directly.database


async def test_a_direct_url_has_to_lead_past_the_pooler(pooler: Pooler, tmp_path: Path) -> None:
    settings = CommonSettings(data_dir=tmp_path, database_url=pooler.url, direct_database_url=pooler.url)
    with pytest.raises(StartError, match="leads to a pooler"):
        await Host(settings, {}).runtime("auth")


async def test_a_direct_url_has_to_lead_to_the_same_database(
    pooler: Pooler, postgres_server: str, tmp_path: Path
) -> None:
    settings = CommonSettings(data_dir=tmp_path, database_url=pooler.url, direct_database_url=postgres_server)
    with pytest.raises(StartError, match="leads to another database"):
        await Host(settings, {}).runtime("auth")


def test_the_direct_url_of_all_is_not_that_of_a_service_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    common = CommonSettings(database_url="postgresql://a/all", direct_database_url="postgresql://b/all")
    assert direct_database_url(common, "memory") == "postgresql://b/all"
    monkeypatch.setenv("COXSWAIN_MEMORY_DATABASE_URL", "postgresql://a/memory")
    assert direct_database_url(common, "memory") == ""
    monkeypatch.setenv("COXSWAIN_MEMORY_DIRECT_DATABASE_URL", "postgresql://b/memory")
    assert direct_database_url(common, "memory") == "postgresql://b/memory"


async def test_many_transactions_share_few_sessions(pooler: Pooler) -> None:
    database = Database(pooler.url, "auth", pooler=True)

    async def transaction(number: int) -> int:
        async with database.write() as connection:
            first = await connection.scalar(sa.select(sa.literal(number) + sa.func.pg_backend_pid()))
            second = await connection.scalar(sa.select(sa.literal(number) + sa.func.pg_backend_pid()))
        assert first == second
        (row,) = await database.fetch(sa.select(sa.literal(number).label("number")))
        return int(row["number"])

    assert await asyncio.gather(*map(transaction, range(40))) == list(range(40))
    await database.close()
