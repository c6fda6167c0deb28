"""Rows of an installation that is upgraded."""

from sqlalchemy import Column, MetaData, String, Table, select

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.migrate import downgrade_database, upgrade_database
from services.common.db.types import JsonDocument
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.tables import crews, requests

SPEC = CrewSpec("c", (AgentSpec("a", "r", "g"),), (TaskSpec("t", "d", "e", "a"),))
# As the release before knows it.
revisions = Table(
    "crew_revisions",
    MetaData(),
    Column("crew_id", String),
    Column("revision"),
    Column("document", JsonDocument),
    Column("subject", String),
    Column("created_at", crews.c.created_at.type),
)


async def test_crews_and_requests_outlive_the_step_that_keeps_memory_ids_and_the_way_back(database_url: str) -> None:
    await upgrade_database("orchestrator", database_url, "0003")
    database = Database(database_url, "orchestrator", null_pool=True)
    now = utc_now()
    crew = {"id": "crew", "group_id": "sales", "name": "c", "revision": 1, "created_at": now, "updated_at": now}
    revision = {"crew_id": "crew", "revision": 1, "document": to_document(SPEC), "subject": "ann", "created_at": now}
    request = {"group_id": "sales", "subject": "ann", "method": "CreateCrew", "request_id": "r"}
    made = {"request_hash": "h", "resource_id": "crew", "created_at": now}
    async with database.write() as connection:
        await connection.execute(crews.insert().values(**crew))
        await connection.execute(revisions.insert().values(**revision))
        await connection.execute(requests.insert().values(**request, **made))
    await upgrade_database("orchestrator", database_url)
    async with database.read() as connection:
        found = await CrewRepository(connection).get("sales", ResourceKey("crew"))
    assert found is not None
    assert (found.spec, found.memory_id) == (SPEC, None)
    await downgrade_database("orchestrator", database_url, "0003")
    async with database.read() as connection:
        assert list(await connection.scalars(select(requests.c.resource_id))) == ["crew"]
        assert list(await connection.scalars(select(revisions.c.crew_id))) == ["crew"]
    await database.close()
