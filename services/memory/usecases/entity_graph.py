"""Entities and how they relate, followed from one of them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.common.errors import InvalidArgument
from services.memory.domain.filters import Comparison, Condition, Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Entity, Record
from services.memory.rows.columns import Column
from services.memory.stores.base import MemoryStore

_RECORDS_IN_STEP = 5000
"""More hardly fit in a message; and to ask some stores for a second page is to have them read everything again."""
_NAME_BYTES = 16
"""What each name adds to a message beside its text, at most."""


@dataclass(slots=True)
class EntityNode:
    """An entity that was reached."""

    name: str
    depth: int
    """Steps from the start."""
    records: list[Record] = field(default_factory=list)
    """Its records; empty where others only mention it."""


@dataclass(frozen=True, slots=True)
class EntityEdge:
    """A relationship between two of the entities."""

    source: str
    relation: str
    target: str


@dataclass(frozen=True, slots=True)
class EntityGraph:
    """What was found."""

    nodes: Sequence[EntityNode]
    """Nearest first."""
    edges: Sequence[EntityEdge]
    truncated: bool
    """Whether the limit kept entities out, or older records of one depth were too many to be read."""


async def traverse(
    store: MemoryStore,
    key: NamespaceKey,
    start: str,
    relations: Collection[str],
    *,
    max_depth: int,
    limit: int,
    now: datetime,
) -> EntityGraph:
    """Follow relationships (only `relations`, if any are given) breadth first for `max_depth` steps.

    Each step is one page of the store, for all entities of a depth: a cycle or a hub costs no more than its entities.
    """
    nodes = {start: EntityNode(start, 0)}
    frontier, truncated = [start], False
    for depth in range(max_depth + 1):
        named = Condition(Column.ENTITY_NAME, Comparison.EQUAL, tuple(frontier))
        page = await store.page(key, Filter(conditions=(named,)), _RECORDS_IN_STEP, None, now, embeddings=False)
        truncated |= page.more
        for record in page.records:
            assert isinstance(record.body, Entity)
            nodes[record.body.entity_name].records.append(record)
        if depth == max_depth:
            break
        reached: list[str] = []
        for edge in [edge for name in frontier for edge in _edges(nodes[name], relations)]:
            if edge.target in nodes:
                continue
            if len(nodes) == limit:
                truncated = True
                break
            nodes[edge.target] = EntityNode(edge.target, depth + 1)
            reached.append(edge.target)
        if not reached:
            break
        frontier = reached
    edges = dict.fromkeys(edge for node in nodes.values() for edge in _edges(node, relations) if edge.target in nodes)
    return EntityGraph(list(nodes.values()), list(edges), truncated)


def within_message(graph: EntityGraph, max_bytes: int) -> EntityGraph:
    """Return the graph without the records that do not fit in a message: those of the farthest entities go first.

    Raises:
        InvalidArgument: entities and relationships alone do not fit.
    """
    names = [node.name for node in graph.nodes]
    names += [name for edge in graph.edges for name in (edge.source, edge.relation, edge.target)]
    used = sum(len(name.encode()) + _NAME_BYTES for name in names)
    if used > max_bytes:
        raise InvalidArgument.field("limit", "so many relationships do not fit in a message; ask for fewer entities")
    truncated = False
    for node in graph.nodes:
        for number, record in enumerate(node.records):
            used += record.most_bytes
            if truncated or used > max_bytes:
                truncated = True
                del node.records[number:]
                break
    return replace(graph, truncated=graph.truncated or truncated)


def _edges(node: EntityNode, relations: Collection[str]) -> Iterator[EntityEdge]:
    for record in node.records:
        assert isinstance(record.body, Entity)
        for relationship in record.body.relationships:
            if not relations or relationship.relation in relations:
                yield EntityEdge(node.name, relationship.relation, relationship.target)
