"""Memory backends: messages to the domain and back."""

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.memory.v1 import memory_backend_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.clock import utc_now
from services.common.egress import origin_of
from services.common.errors import InvalidArgument
from services.memory.domain import DatabricksConfig, EmbeddingSpace, MemoryBackend, MemoryKind
from services.memory.servicers.convert import timestamp

_OUTPUT_ONLY = frozenset({"id", "active", "create_time", "update_time"})
_CHANGEABLE = ("name", "default", "databricks", "disabled_kinds")


def backend_to_domain(message: pb.MemoryBackend, default_space: EmbeddingSpace) -> MemoryBackend:
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
        disabled_kinds=frozenset(MemoryKind(kind) for kind in message.disabled_kinds),
        created_at=now,
        updated_at=now,
    )


def _config(message: pb.DatabricksBackendConfig, default_space: EmbeddingSpace) -> DatabricksConfig:
    workspace_url = origin_of(message.workspace_url)
    if workspace_url is None:
        raise InvalidArgument.field("backend.databricks.workspace_url", "is not an address; write https://HOST")
    indexes: dict[MemoryKind, str] = {}
    for place, entry in enumerate(message.indexes):
        kind = MemoryKind(entry.kind)
        if kind in indexes:
            raise InvalidArgument.field(f"backend.databricks.indexes[{place}].kind", f"{kind.name} is there twice")
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
    )


def backend_to_message(backend: MemoryBackend) -> pb.MemoryBackend:
    """Return the message of a backend."""
    message = pb.MemoryBackend(
        id=backend.id,
        name=backend.name,
        disabled_kinds=[record_pb2.MemoryKind.ValueType(int(kind)) for kind in sorted(backend.disabled_kinds)],
        active=backend.active,
        create_time=timestamp(backend.created_at),
        update_time=timestamp(backend.updated_at),
    )
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
                pb.KindIndex(kind=record_pb2.MemoryKind.ValueType(int(kind)), index=name)
                for kind, name in sorted(config.indexes.items())
            ],
            embedding_model=config.space.model,
            embedding_dimension=config.space.dimension,
        )
    )
    return message


def merge(present: pb.MemoryBackend, changes: pb.MemoryBackend, mask: FieldMask) -> pb.MemoryBackend:
    """Return the present configuration with the fields of a mask taken from another.

    Raises:
        InvalidArgument: the mask is empty, or names what does not exist or cannot be changed.
    """
    if not mask.paths:
        raise InvalidArgument.field("update_mask", 'name the fields to change, or "*" for all of them')
    if list(mask.paths) == ["*"]:
        mask = FieldMask(paths=_CHANGEABLE)
    for path in mask.paths:
        if not FieldMask(paths=[path]).IsValidForDescriptor(pb.MemoryBackend.DESCRIPTOR):
            raise InvalidArgument.field("update_mask", f'a memory backend has no field "{path}"')
        if path.split(".")[0] in _OUTPUT_ONLY:
            raise InvalidArgument.field("update_mask", f'"{path}" cannot be changed')
    wanted = pb.MemoryBackend()
    wanted.CopyFrom(changes)
    if any(path.startswith("databricks.") for path in mask.paths):
        # What the mask names and the message lacks is emptied, but not inside a part that is absent.
        wanted.databricks.SetInParent()
    merged = pb.MemoryBackend()
    merged.CopyFrom(present)
    mask.MergeMessage(wanted, merged, True, True)
    return merged
