"""Memory backends as messages."""

from dataclasses import replace

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.memory.v1 import memory_backend_pb2 as pb
from services.common.clock import utc_now
from services.common.egress import origin_of
from services.common.errors import InvalidArgument
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.times import timestamp_to_proto
from services.common.grpc.validation import validate
from services.memory.domain.backends import DatabricksConfig, MemoryBackend
from services.memory.domain.records import MemoryKind
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.servicers.messages.pgvector_backends import pgvector_from_proto, pgvector_to_proto
from services.memory.servicers.messages.records import kind_from_proto, kind_to_proto
from services.memory.usecases.checks import Check

_CHANGEABLE = (
    frozenset({"name", "default", "databricks", "pgvector", "disabled_kinds"})
    | {f"databricks.{field}" for field in pb.DatabricksBackendConfig.DESCRIPTOR.fields_by_name}
    | {f"pgvector.{field}" for field in pb.PgvectorBackendConfig.DESCRIPTOR.fields_by_name}
)


def backend_from_proto(message: pb.MemoryBackend, default_space: EmbeddingSpace) -> MemoryBackend:
    """Return the configuration in a message; what only the server sets is empty.

    Raises:
        InvalidArgument: a part of it contradicts another.
    """
    now = utc_now()
    return MemoryBackend(
        id=message.id,
        group_id="",
        name=message.name,
        databricks=_config(message.databricks, default_space) if message.HasField("databricks") else None,
        disabled_kinds=frozenset(kind_from_proto(kind) for kind in message.disabled_kinds),
        created_at=now,
        updated_at=now,
        pgvector=pgvector_from_proto(message.pgvector) if message.HasField("pgvector") else None,
    )


def changed_backend(
    present: MemoryBackend, given: pb.MemoryBackend, mask: FieldMask, default_space: EmbeddingSpace
) -> MemoryBackend:
    """Return a backend in which the fields that a mask names are as given.

    Raises:
        InvalidArgument: the mask names what cannot be changed, or a field breaks a rule.
    """
    message = backend_to_proto(present)
    replace_fields(message, given, mask_paths(mask, _CHANGEABLE))
    validate(message, "backend")
    changed = replace(backend_from_proto(message, default_space), created_at=present.created_at)
    before, after = present.databricks, changed.databricks
    if before is None or after is None or before.workspace_url != after.workspace_url:
        return changed
    # What was measured of the workspace stays true.
    return replace(changed, databricks=replace(after, scores=before.scores))


def _config(message: pb.DatabricksBackendConfig, default_space: EmbeddingSpace) -> DatabricksConfig:
    workspace_url = origin_of(message.workspace_url)
    if workspace_url is None:
        raise InvalidArgument.field("backend.databricks.workspace_url", "is not an address; write https://HOST")
    indexes: dict[MemoryKind, str] = {}
    for index, entry in enumerate(message.indexes):
        kind = kind_from_proto(entry.kind)
        if kind in indexes:
            raise InvalidArgument.field(
                f"backend.databricks.indexes[{index}].kind", f"{kind.name} is listed twice; each kind has one index"
            )
        indexes[kind] = entry.index
    return DatabricksConfig(
        workspace_url=workspace_url,
        endpoint=message.endpoint,
        catalog=message.catalog,
        schema=message.schema,
        indexes=indexes,
        space=EmbeddingSpace(
            message.embedding_model or default_space.model, message.embedding_dimension or default_space.dimension
        ),
        target_qps=message.target_qps or None,
    )


def backend_to_proto(backend: MemoryBackend) -> pb.MemoryBackend:
    """Return the message of a backend."""
    message = pb.MemoryBackend(
        id=backend.id,
        name=backend.name,
        disabled_kinds=sorted(kind_to_proto(kind) for kind in backend.disabled_kinds),
        active=backend.active,
        create_time=timestamp_to_proto(backend.created_at),
        update_time=timestamp_to_proto(backend.updated_at),
    )
    if backend.pgvector is not None:
        message.pgvector.CopyFrom(pgvector_to_proto(backend.pgvector))
        return message
    config = backend.databricks
    if config is None:
        message.default.SetInParent()
        return message
    message.databricks.CopyFrom(
        pb.DatabricksBackendConfig(
            workspace_url=config.workspace_url,
            endpoint=config.endpoint,
            catalog=config.catalog,
            schema=config.schema,
            indexes=[
                pb.KindIndex(kind=kind, index=name)
                for kind, name in sorted((kind_to_proto(kind), name) for kind, name in config.indexes.items())
            ],
            embedding_model=config.space.model,
            embedding_dimension=config.space.dimension,
            target_qps=config.target_qps or 0,
        )
    )
    return message


def check_to_proto(check: Check) -> pb.MemoryBackendCheck:
    """Return the message of a check."""
    return pb.MemoryBackendCheck(subject=check.subject, ok=check.ok, finding=check.finding, remedy=check.remedy)
