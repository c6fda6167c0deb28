"""Deciding a shortlist by the vectors themselves, which are read for the rows that it is about."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from sqlalchemy import Select

from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.searches import Query
from services.memory.rows.columns import Column
from services.memory.rows.row import Row
from services.memory.stores.sql.blocks import VectorBlock
from services.memory.stores.sql.shortlist import Shortlist
from services.memory.stores.sql.statements import (
    IDS_IN_STATEMENT,
    NAMESPACE_VERSION,
    WINNERS,
    owner_parameters,
    winners_vectors,
)
from services.memory.stores.sql.vectors import Candidates, nearest

Fetch: TypeAlias = Callable[[Select[Any], Mapping[str, Any]], Awaitable[Sequence[Row]]]
"""Reads the rows of a statement with these parameters."""

_FIRST: Final = 64
"""Vectors read at first beside as many as there may be results; then twice as many each time."""
_MOST: Final = 10_000
"""Vectors read beside as many as there may be results: from there on it is cheaper to read all rows in their order."""


async def best_of_shortlist(
    fetch: Fetch, key: NamespaceKey, version: int, block: VectorBlock, listed: Shortlist, query: Query, now_us: int
) -> Candidates | None:
    """Return the best of the rows listed, a block's as of a version; None when it is outdated, or they are too many.

    Rows are read from the highest score downwards that they may have, until no other can be among the best.
    """
    best = Candidates.none()
    start, count = 0, _FIRST + query.limit
    while start < len(listed) and not (len(best.ids) == query.limit and listed.highest[start] < best.scores[-1]):
        if start > _MOST + query.limit:
            return None
        positions = listed.positions[start : start + min(count, IDS_IN_STATEMENT)]
        ids = [stored_id.decode() for stored_id in block.ids[positions].tolist()]
        rows = await fetch(winners_vectors(key.kind), owner_parameters(key) | {WINNERS: ids})
        if not rows or rows[0][NAMESPACE_VERSION] != version:
            return None
        best = await asyncio.to_thread(_best_of_rows, block, positions, ids, rows, best, query, now_us)
        start, count = start + len(positions), 2 * count
    return best


def _best_of_rows(
    block: VectorBlock,
    positions: npt.NDArray[np.intp],
    ids: Sequence[str],
    rows: Sequence[Row],
    best: Candidates,
    query: Query,
    now_us: int,
) -> Candidates:
    size = 4 * block.dimension
    vectors = {row[Column.ID]: row[Column.EMBEDDING] for row in rows if len(row[Column.EMBEDDING] or b"") == size}
    # One that something else has taken or spoilt meanwhile cannot be compared.
    found = [place for place, stored_id in enumerate(ids) if stored_id in vectors]
    matrix = np.frombuffer(b"".join(vectors[ids[place]] for place in found), "<f4").reshape(len(found), block.dimension)
    some = block.with_vectors(positions[found], matrix)
    return best.merged(nearest(some, query, np.ones(len(found), dtype=np.bool_), now_us), query.limit)
