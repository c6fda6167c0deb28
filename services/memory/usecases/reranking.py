"""Searches whose results a model puts in order: what fits them, and which stores have such a model."""

import functools
from typing import Any, Protocol

from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import Reranking
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.base import MemoryStore, RerankingStore
from services.memory.usecases.ranked_search import RERANKED, Rerank


class _Reranked(Protocol):
    """What a search asks for beside its reranking."""

    @property
    def vector(self) -> Any: ...
    @property
    def ranking(self) -> Any: ...
    @property
    def diversity(self) -> float | None: ...
    @property
    def limit(self) -> int: ...
    @property
    def reranking(self) -> Reranking | None: ...


def check_reranking(search: _Reranked, kind: MemoryKind) -> None:
    """Refuse what does not fit results that a model puts in order.

    Raises:
        InvalidArgument: something does not.
    """
    if search.vector is not None:
        raise InvalidArgument.field("vector", "has no words that a model could read; with `reranking` send a text")
    for field, given in (("ranking", search.ranking), ("diversity", search.diversity)):
        if given is not None:
            raise InvalidArgument.field(field, "is another order of results; with `reranking` leave it out")
    if search.limit > RERANKED:
        raise InvalidArgument.field("limit", f"is at most {RERANKED} with `reranking`; it is {search.limit:,}")
    readable = DatabricksIndexSchemas.readable(kind)
    for position, column in enumerate(search.reranking.columns if search.reranking else ()):
        if column not in readable:
            raise InvalidArgument.field(
                f"reranking.columns[{position}]",
                f'of {kind.name} records a model reads {", ".join(sorted(readable))}, not "{column}"',
            )


def reranker_of(store: MemoryStore, key: NamespaceKey, reranking: Reranking) -> Rerank:
    """Return how a store puts what a search finds in order.

    Raises:
        FailedPrecondition: it has no model for it.
    """
    if not isinstance(store, RerankingStore):
        raise FailedPrecondition(
            "the group's memory backend has no reranking model: leave `reranking` out, or keep these memories in a "
            "Databricks backend",
            reason="INVALID_FIELD",
            violations=(FieldViolation("reranking", "is not possible with the active backend"),),
        )
    return functools.partial(store.rerank, key, reranking)
