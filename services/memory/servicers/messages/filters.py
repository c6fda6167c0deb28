"""Filters, conditions and rankings as messages."""

from coxswain.memory.v1 import memory_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.json_values import from_value
from services.common.grpc.times import optional_timestamp_from_proto
from services.memory.domain.filters import Filter
from services.memory.domain.metadata import canonical_json
from services.memory.domain.records import MemoryKind
from services.memory.domain.scopes import normalise_scope
from services.memory.domain.searches import Ranking, Reranking
from services.memory.servicers.messages.conditions import conditions_from_proto
from services.memory.servicers.messages.expressions import expression_from_proto

_DEFAULT_HALF_LIFE_DAYS = 30.0


def filter_from_proto(message: memory_pb2.RecordFilter, kind: MemoryKind) -> Filter:
    """Return the filter of a message, checked against the kind's schema.

    Raises:
        InvalidArgument: a part of it does not fit the kind.
    """
    if kind is not MemoryKind.UNIFIED:
        for name in ("scope_prefix", "categories", "all_categories", "source", "include_private"):
            if getattr(message, name):
                raise InvalidArgument.field(f"filter.{name}", f"{kind.name} records have none")
    return Filter(
        conditions=conditions_from_proto(message.conditions, kind, "filter.conditions"),
        scope_prefix=normalise_scope(message.scope_prefix) if message.scope_prefix else "",
        categories=frozenset(message.categories),
        all_categories=frozenset(message.all_categories),
        metadata={
            name: canonical_json(from_value(f'filter.metadata["{name}"]', value))
            for name, value in message.metadata.items()
        },
        created_before=optional_timestamp_from_proto(message, "created_before", "filter"),
        created_after=optional_timestamp_from_proto(message, "created_after", "filter"),
        expression=(
            expression_from_proto(message.expression, kind, "filter.expression")
            if message.HasField("expression")
            else None
        ),
        source=message.source,
        include_private=message.include_private,
    )


def ranking_from_proto(message: memory_pb2.Ranking) -> Ranking:
    """Return the weights.

    Raises:
        InvalidArgument: they sum to nothing, or one is not finite.
    """
    weights = (message.semantic_weight, message.recency_weight, message.importance_weight)
    if not 0 < sum(weights) < float("inf"):
        raise InvalidArgument.field("ranking", "at least one weight has to be above 0, and all of them finite")
    half_life = message.recency_half_life_days or _DEFAULT_HALF_LIFE_DAYS
    return Ranking(*weights, half_life_days=half_life)


def reranking_from_proto(search: memory_pb2.SearchRecordsRequest) -> Reranking:
    """Return what a model reads of a search and of what it finds."""
    return Reranking(search.text, tuple(search.reranking.columns))
