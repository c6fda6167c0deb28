"""Rows of what the operator declares, over the changes of the file."""

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.tool_source import McpServer, SourceKind, ToolSource, ToolSourceSpec
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.usecases.operator_sources import OperatorSource, OperatorSources
from tests.support.service_tables import make_service_tables


def spec(name: str, url: str = "https://mcp.example.com") -> ToolSourceSpec:
    return ToolSourceSpec(name, SourceKind.MCP, McpServer(url))


async def stored(database: Database, group: str) -> dict[str, ToolSource]:
    async with database.read() as connection:
        sources = ToolSourceRepository(connection)
        return await sources.named(group, await sources.names(group))


async def test_rows_follow_the_file(database_url: str) -> None:
    make_service_tables("orchestrator", database_url)
    database = Database(database_url, "orchestrator")
    now = utc_now()
    async with database.write() as connection:
        own = ToolSource(new_id(), "legal", 1, spec("all", "https://own.example.com"), (), now, now)
        await ToolSourceRepository(connection).insert(own, "dev|bob")
    declared = OperatorSources(
        database, [OperatorSource(spec("all")), OperatorSource(spec("some"), frozenset({"sales"}))]
    )
    for group in ("sales", "legal", "sales"):
        await declared.sync(group)
    sales, legal = await stored(database, "sales"), await stored(database, "legal")
    assert {name: source.from_operator for name, source in sales.items()} == {"all": True, "some": True}
    # What a group has made itself stays its own.
    assert {name: source.from_operator for name, source in legal.items()} == {"all": False}
    # The next start has another file.
    changed = OperatorSources(database, [OperatorSource(spec("all", "https://new.example.com"))])
    await changed.prune()
    sales = await stored(database, "sales")
    assert {name: (source.spec.endpoint, source.revision) for name, source in sales.items()} == {
        "all": (McpServer("https://new.example.com"), 2)
    }
    assert await stored(database, "legal") == legal
    await OperatorSources(database, []).prune()
    assert await stored(database, "sales") == {}
    await database.close()
