"""A process that saves records to the default store and says which were acknowledged."""

import asyncio
import sys
from datetime import UTC, datetime

from services.common.db.database import Database
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import EmbeddingSpace, unit_vector
from services.memory.stores.sql.store import SqlMemoryStore

KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
SPACE = EmbeddingSpace("test/embed", 8)


async def write(url: str, prefix: str, batches: int) -> None:
    """Save batches of three records; each id is printed when its save has returned."""
    database = Database(url, "memory")
    store = SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    for batch in range(batches):
        records = [
            Record(f"{prefix}-{batch}-{n}", Unified(f"text {n}"), unit_vector([1, batch % 5, n, 0, 0, 0, 0, 1]))
            for n in range(3)
        ]
        await store.save(KEY, SPACE, records, datetime.now(UTC))
        sys.stdout.write("".join(f"{record.id}\n" for record in records))
        sys.stdout.flush()
    await database.close()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], sys.argv[2], int(sys.argv[3])))
