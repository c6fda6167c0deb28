"""Where the gateway finds the sources of a group."""

from services.common.db.database import Database
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.repositories.tool_sources import ToolSourceRepository


class StoredSources:
    """Sources as they are stored; see `Sources`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_name(self, group_id: str, name: str) -> ToolSourceSpec | None:
        """See `Sources`."""
        async with self._database.read() as connection:
            found = await ToolSourceRepository(connection).named(group_id, [name])
        return found[name].spec if name in found else None

    async def by_id(self, group_id: str, source_id: str) -> ToolSourceSpec | None:
        """See `Sources`."""
        async with self._database.read() as connection:
            found = await ToolSourceRepository(connection).get(group_id, ResourceKey(source_id))
        return None if found is None else found.spec
