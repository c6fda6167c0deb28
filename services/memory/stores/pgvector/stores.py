"""The stores of all backends that are databases, and what they share."""

from services.memory.domain.backends import MemoryBackend
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.stores.pgvector.indexes import IndexKeeper
from services.memory.stores.pgvector.pools import ConnectionPools
from services.memory.stores.pgvector.search import PgvectorSearch
from services.memory.stores.pgvector.store import PgvectorMemoryStore
from services.memory.stores.sweep_turns import SweepTurns


class PgvectorStores:
    """Makes a store for each call; connections outlive it."""

    def __init__(self, pools: ConnectionPools, indexes: IndexKeeper, *, exact_rows: int, sweep_seconds: float) -> None:
        """`exact_rows` is how many records are compared without an index, `sweep_seconds` how often a namespace's
        saves remove what has expired.
        """
        self.pools = pools
        self.exact_rows = exact_rows
        self._indexes = indexes
        self._sweeps = SweepTurns(sweep_seconds)

    def store(self, backend: MemoryBackend) -> PgvectorMemoryStore:
        """Return the store of a backend that is a database."""
        database = BackendDatabase(backend, self.pools)
        search = PgvectorSearch(
            database, lambda namespace: self._indexes.need(backend, namespace), exact_rows=self.exact_rows
        )
        return PgvectorMemoryStore(database, search, self._sweeps)

    async def close_idle(self) -> None:
        """Close the connections that nobody has used for a while."""
        await self.pools.close_idle()

    async def close(self) -> None:
        """Stop building indexes, and close all connections."""
        await self._indexes.close()
        await self.pools.close()
