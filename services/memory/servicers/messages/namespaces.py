"""Namespaces, scopes and graphs of entities as messages."""

from coxswain.memory.v1 import memory_pb2 as pb
from services.common.grpc.times import timestamp_to_proto
from services.memory.domain.namespaces import NamespaceInfo
from services.memory.domain.scopes import ScopeInfo
from services.memory.servicers.messages.records import kind_to_proto, record_to_proto
from services.memory.usecases.entity_graph import EntityGraph


def namespace_to_proto(info: NamespaceInfo) -> pb.NamespaceInfo:
    """Return the message of a namespace."""
    return pb.NamespaceInfo(
        namespace=pb.Namespace(memory_id=info.key.memory_id, kind=kind_to_proto(info.key.kind)),
        embedding_model=info.space.model,
        embedding_dimension=info.space.dimension,
        record_count=info.record_count,
        version=info.version,
        crew_name=info.crew_name,
        record_count_at_least=info.at_least,
        problem=info.problem,
    )


def scope_to_proto(info: ScopeInfo) -> pb.ScopeInfo:
    """Return the message of a scope's figures."""
    return pb.ScopeInfo(
        path=info.path,
        record_count=info.record_count,
        categories=info.categories,
        oldest_time=timestamp_to_proto(info.oldest),
        newest_time=timestamp_to_proto(info.newest),
        child_scopes=info.child_scopes,
    )


def graph_to_proto(graph: EntityGraph) -> pb.TraverseEntitiesResponse:
    """Return the message of a graph of entities."""
    return pb.TraverseEntitiesResponse(
        entities=[
            pb.EntityNode(
                entity_name=node.name, depth=node.depth, records=[record_to_proto(record) for record in node.records]
            )
            for node in graph.nodes
        ],
        edges=[pb.EntityEdge(source=edge.source, relation=edge.relation, target=edge.target) for edge in graph.edges],
        truncated=graph.truncated,
    )
