"""A process that removes records from the default store in small portions.

It says when it has removed one, and commits it when it is told to go on.
"""

import asyncio
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from services.common.db.database import Database
from services.memory.domain.filters import Filter
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.stores.sql import reads as reads_module
from services.memory.stores.sql import statements
from services.memory.stores.sql import store as store_module
from tests.integration.memory.writer import KEY

DOOMED = Filter(categories=frozenset({"doomed"}), include_private=True)


_remove_records = NamespaceRepository.remove_records


async def _reported(*arguments: Any) -> None:
    await _remove_records(*arguments)
    sys.stdout.write("portion\n")
    sys.stdout.flush()
    sys.stdin.readline()


async def remove(url: str, removal: str) -> None:
    """Clear the namespace, or delete what is doomed; the number removed is printed when that has returned."""
    database = Database(url, "memory")
    store = store_module.SqlMemoryStore(database, cache_bytes=0, cached_namespace_bytes=0)
    if removal == "clear":
        removed = await store.clear(KEY)
    else:
        removed = await store.delete(KEY, None, DOOMED, datetime.now(UTC))
    sys.stdout.write(f"removed {removed}\n")
    await database.close()


def main() -> None:
    """Have few rows be a portion."""
    with ExitStack() as patches:
        for module in (statements, store_module):
            patches.enter_context(patch.object(module, "ROWS_IN_CHUNK", 20))
        patches.enter_context(patch.object(reads_module, "TEXTS_IN_CHUNK", 60))
        patches.enter_context(patch.object(NamespaceRepository, "remove_records", _reported))
        asyncio.run(remove(sys.argv[1], sys.argv[2]))


if __name__ == "__main__":
    main()
