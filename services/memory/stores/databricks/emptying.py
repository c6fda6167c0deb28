"""Removing all of an owner's rows that match: the workspace has no call for it, so it goes in rounds."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import Unavailable
from services.memory.domain.filters import Filter
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository

_MOST_WAITS = 30
"""Times that removals which were accepted may still not be seen."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the emptying of an index has come; a total of 0 is not known."""

    done: int
    total: int
    finished: bool


async def empty_index(
    repository: DatabricksVectorIndexRepository,
    index: str,
    owner: Owner,
    chosen: Filter,
    now: datetime,
    pause_seconds: float,
) -> AsyncIterator[Progress]:
    """Remove the owner's rows that match, in rounds, until a query finds no more.

    Removals may take a while to be seen: a round that finds only what was removed already waits.

    Raises:
        Unavailable: what was removed does not disappear; calling again continues.
    """
    await repository.check_writable(index)
    done = waits = 0
    removed: set[str] = set()
    while True:
        found, all_found = await repository.keys(index, owner, chosen, now)
        fresh = [key for key in found if key not in removed]
        stale = [key for key in found if key in removed]
        if not found and all_found:
            yield Progress(done, done, finished=True)
            return
        total = done + len(fresh) if all_found else 0
        if fresh:
            waits = 0
        else:
            if waits == _MOST_WAITS:
                raise Unavailable(
                    f"{len(stale)} rows of index {index} are still there though their removal was accepted; call "
                    "again to continue",
                    reason="STORE_FAILED",
                    metadata={"http_status": "200", "error_code": ""},
                    retry_after=pause_seconds,
                )
            waits += 1
            await asyncio.sleep(pause_seconds)
        # Only the last rounds can still be seen: earlier ones need not be remembered.
        removed = set(fresh) | (removed if stale else set())
        # A row that is still visible may have been written again meanwhile, so it is removed once more.
        doomed = fresh or stale
        for start in range(0, len(doomed), repository.delete_batch):
            part = doomed[start : start + repository.delete_batch]
            await repository.delete_records(index, part)
            if fresh:
                done += len(part)
            yield Progress(done, total, finished=False)
