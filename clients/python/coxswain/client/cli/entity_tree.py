"""A graph of entities, drawn as a tree."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from coxswain.client.cli.session import one_line, styled
from coxswain.client.later import memory_pb2

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree


def entity_tree(graph: memory_pb2.TraverseEntitiesResponse) -> Tree:
    """The entities below the first of them, each once at its least depth; further paths to one only name it."""
    nodes = {node.entity_name: node for node in graph.entities}
    edges: dict[str, list[memory_pb2.EntityEdge]] = defaultdict(list)
    for edge in graph.edges:
        edges[edge.source].append(edge)
    start = graph.entities[0]
    from rich.tree import Tree

    tree = Tree(_described(start))
    branches = {start.entity_name: tree}
    # Nearest first, so that each entity appears where the fewest steps lead to it.
    for name in nodes:
        for edge in edges[name]:
            label = styled(f"{one_line(edge.relation)} ", "dim")
            if edge.target in branches:
                branches[name].add(label.append(f"{one_line(edge.target)} (again)"))
            else:
                branches[edge.target] = branches[name].add(label.append_text(_described(nodes[edge.target])))
    return tree


def _described(node: memory_pb2.EntityNode) -> Text:
    entities = [record.entity for record in node.records]
    kinds = ", ".join(dict.fromkeys(entity.entity_type for entity in entities if entity.entity_type))
    known = "; ".join(dict.fromkeys(entity.description for entity in entities if entity.description))
    text = styled(one_line(node.entity_name), "bold" if node.depth == 0 else "")
    return text.append(f" ({one_line(kinds)})" if kinds else "").append(f": {one_line(known)}" if known else "")
