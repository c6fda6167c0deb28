"""Vector indexes and endpoints as messages."""

from typing import Protocol

from coxswain.memory.v1 import vector_index_pb2 as pb
from services.common.grpc.enums import enum_to_proto
from services.common.resource_key import ResourceKey
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.servicers.messages.records import kind_to_proto
from services.memory.stores.databricks.descriptions import EndpointDescription
from services.memory.usecases.index_adoption import AdoptionStep
from services.memory.usecases.index_resources import IndexInfo


class OfBackend(Protocol):
    """A request that names a backend by its `oneof backend`."""

    backend_id: str
    backend_name: str


def backend_key_from_proto(request: OfBackend) -> ResourceKey:
    """Return which backend a request names."""
    return ResourceKey(request.backend_id, request.backend_name)


def index_to_proto(info: IndexInfo) -> pb.IndexInfo:
    """Return the message of an index."""
    registered, description = info.registered, info.description
    config = registered.backend.databricks
    return pb.IndexInfo(
        index=registered.name,
        endpoint=description.endpoint or (config.endpoint if config else ""),
        kind=kind_to_proto(registered.kind),
        state=enum_to_proto(pb.ResourceState, description.state),
        detailed_state=description.detailed_state,
        message=description.message,
        embedding_dimension=description.dimension,
        shared=registered.shared,
        source_table=description.source_table,
    )


def adoption_step_to_proto(step: AdoptionStep) -> pb.AdoptIndexResponse:
    """Return the message of a step of taking over an index."""
    message = pb.AdoptIndexResponse(step=step.text, done=step.done, total=step.total, rate=step.rate)
    report = step.report
    if report is not None:
        survey = report.survey
        message.report.CopyFrom(
            pb.AdoptionReport(
                readable=survey.readable,
                unreadable=survey.unreadable,
                changed=report.changed,
                of_others=report.of_others,
                unreadable_rows=[pb.UnreadableRow(primary_key=row.stored_id, reason=row.why) for row in survey.named],
                memories=[
                    pb.AdoptedMemory(memory_id=m.memory_id, record_count=m.record_count, problem=m.problem)
                    for m in report.memories
                ],
            )
        )
    return message


def endpoint_to_proto(endpoint: EndpointDescription) -> pb.EndpointInfo:
    """Return the message of an endpoint."""
    return pb.EndpointInfo(
        name=endpoint.name,
        type=pb.ENDPOINT_TYPE_STORAGE_OPTIMIZED if endpoint.storage_optimized else pb.ENDPOINT_TYPE_STANDARD,
        state=enum_to_proto(pb.ResourceState, endpoint.state),
        detailed_state=endpoint.detailed_state,
        message=endpoint.message,
        index_count=endpoint.index_count,
    )


def schema_to_proto(kind: MemoryKind) -> pb.GetSchemaResponse:
    """Return the columns that the indexes of a kind have."""
    filterable = DatabricksIndexSchemas.filterable(kind)
    positions = DatabricksIndexSchemas.get_column_positions(kind)
    return pb.GetSchemaResponse(
        fields=[
            pb.SchemaField(name=name, type=type_name, filterable=name in filterable, position=positions.get(name, -1))
            for name, type_name in DatabricksIndexSchemas.get_schema(kind).items()
        ],
        search_columns=DatabricksIndexSchemas.get_search_columns(kind),
        primary_key=DatabricksIndexSchemas.PRIMARY_KEY,
        vector_column=DatabricksIndexSchemas.VECTOR_COLUMN,
    )
