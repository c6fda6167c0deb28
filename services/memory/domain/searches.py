"""Searches and what they return."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from services.memory.domain.filters import Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Record
from services.memory.domain.vectors import Vector
from services.memory.domain.words import Term


class SearchMode(StrEnum):
    """How records are found."""

    VECTOR = "VECTOR"
    HYBRID = "HYBRID"
    TEXT = "TEXT"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Weights that sum to something above 0, and the days in which recency halves."""

    semantic_weight: float
    recency_weight: float
    importance_weight: float
    half_life_days: float

    def blend(
        self,
        similarity: npt.NDArray[np.float64],
        age_days: npt.NDArray[np.float64],
        importance: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """Return the weighted means."""
        recency = np.exp2(-np.maximum(age_days, 0.0) / self.half_life_days)
        total = self.semantic_weight + self.recency_weight + self.importance_weight
        blended = (
            self.semantic_weight * similarity + self.recency_weight * recency + self.importance_weight * importance
        )
        result: npt.NDArray[np.float64] = blended / total
        return result


@dataclass(frozen=True, slots=True)
class Reranking:
    """A search whose best results a model puts in order, by reading them beside the text of the search."""

    text: str
    columns: tuple[str, ...]
    """What the model reads of each record, in this order; empty means its text."""


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """The position of the last result of a page: its score, and among equal scores its stored id."""

    score: float
    stored_id: str
    rank: int
    """How many results were on the pages so far."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for."""

    vector: Vector
    limit: int
    filter: Filter = field(default_factory=Filter)
    min_score: float | None = None
    ranking: Ranking | None = None
    include_embeddings: bool = False
    after: SearchPosition | None = None
    """Only what comes after this position."""
    asked_at: datetime | None = None
    """When the first page was requested, from which all pages compute ages; None: now."""


@dataclass(frozen=True, slots=True)
class WordQuery:
    """Which words to look for."""

    terms: Sequence[Term]
    limit: int
    filter: Filter = field(default_factory=Filter)
    include_embeddings: bool = False
    skip: int = 0
    """How many of the best to pass over, as earlier pages have shown them."""
    text: str = ""
    """What the terms were read from, for stores that look for words themselves."""


@dataclass(frozen=True, slots=True)
class Found:
    """A record, its score (blended when ranked) and its cosine similarity."""

    record: Record
    score: float
    similarity: float
    key: NamespaceKey | None = None
    """Where it was found, in a search over several namespaces."""


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a search found, best first, and how it was done."""

    results: Sequence[Found] = ()
    scanned: int = 0
    """Records read one by one from the database, as the namespace is too large to be held in memory."""
    truncated: bool = False
    """Whether only the nearest candidates were considered: others may match too, or rank higher."""
    cut: bool = False
    """Whether there are more results within the limit, too many bytes to be read at once."""
    unreadable: int = 0
    """Rows among the results that are no records and were left out."""
