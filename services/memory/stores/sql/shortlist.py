"""The rows of a quantised block that may be among the results of a search; all others provably are not."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.memory.domain.searches import Query
from services.memory.stores.sql.blocks import Mask, VectorBlock
from services.memory.stores.sql.quantised import reaches
from services.memory.stores.sql.vectors import scores_of


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Rows of a block, those first that may have the highest scores."""

    positions: npt.NDArray[np.intp]
    highest: npt.NDArray[np.float64]
    """The highest score that each row may have, falling."""

    def __len__(self) -> int:
        return len(self.positions)


def shortlist(block: VectorBlock, query: Query, allowed: Mask, now_us: int) -> Shortlist:
    """Return the allowed rows of a quantised block that may be results.

    A row is left out when as many others as there may be results certainly are better, or when its score or similarity
    certainly is none that the query asks for.
    """
    assert block.quantised is not None
    low, high = reaches(block.quantised, query.vector)
    positions = np.flatnonzero(allowed)
    low, high = low[positions], high[positions]
    # Scores rise with similarities, whatever they are blended with.
    lowest = scores_of(block, query, positions, low, now_us)
    highest = scores_of(block, query, positions, high, now_us)
    possible = np.ones(len(positions), dtype=np.bool_)
    certain = possible.copy()
    if query.min_score is not None:
        possible &= high >= query.min_score
        certain &= low >= query.min_score
    if query.after is not None:
        possible &= lowest <= query.after.score
        # The last result itself is none, however much lower its score is now.
        certain &= (highest < query.after.score) & (block.ids[positions] != query.after.stored_id.encode())
    sure = lowest[certain]
    if len(sure) > query.limit:
        possible &= highest >= np.partition(sure, len(sure) - query.limit)[len(sure) - query.limit]
    positions, highest = positions[possible], highest[possible]
    order = np.argsort(-highest)
    return Shortlist(positions[order], highest[order].astype(np.float64))
