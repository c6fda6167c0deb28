"""Models and changes of them."""

from dataclasses import fields
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.models.v1 import model_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.field_masks import mask_paths
from services.common.grpc.validation import validate
from services.models.domain.model import CHANGEABLE_FIELDS, Capabilities, Model, ModelSpec, Provider

_CAPABILITIES = tuple(field.name for field in fields(Capabilities))
_CONFIGURED = tuple(field.name for field in fields(ModelSpec))


def model_spec_from_proto(model: pb.Model) -> ModelSpec:
    """Return the configuration of a model.

    Raises:
        InvalidArgument: no provider is named.
    """
    return ModelSpec(**{name: _value(model, name) for name in _CONFIGURED})


def model_changes_from_proto(model: pb.Model, mask: FieldMask) -> dict[str, Any]:
    """Return the new values of the fields that a mask names, by their paths. The other fields are not looked at.

    Raises:
        InvalidArgument: the mask names what cannot be changed, or a value breaks a rule.
    """
    paths = mask_paths(mask, CHANGEABLE_FIELDS)
    named = pb.Model()
    FieldMask(paths=sorted(paths)).MergeMessage(model, named)
    validate(named, "model")
    return {path: _value(named, path) for path in paths}


def _value(model: pb.Model, path: str) -> Any:
    parent, _, name = path.rpartition(".")
    match path:
        case "provider" if model.provider == pb.PROVIDER_UNSPECIFIED:
            raise InvalidArgument.field("model.provider", "has to be set to the provider that serves the model")
        case "provider":
            return enum_from_proto(Provider, pb.Provider, model.provider)
        case "capabilities":
            return Capabilities(**{capability: getattr(model.capabilities, capability) for capability in _CAPABILITIES})
        case "temperature":
            return model.temperature if model.HasField("temperature") else None
        case _:
            return getattr(getattr(model, parent) if parent else model, name)


def model_to_proto(model: Model) -> pb.Model:
    """Return a model as callers see it."""
    spec = model.spec
    message = pb.Model(
        id=model.id,
        name=spec.name,
        description=spec.description,
        provider=enum_to_proto(pb.Provider, spec.provider),
        upstream_model=spec.upstream_model,
        base_url=spec.base_url,
        capabilities=pb.Capabilities(**{name: getattr(spec.capabilities, name) for name in _CAPABILITIES}),
        context_window=spec.context_window,
        max_output_tokens=spec.max_output_tokens,
        embedding_dimension=spec.embedding_dimension,
        temperature=spec.temperature,
        input_cost_per_million_tokens=spec.input_cost_per_million_tokens,
        output_cost_per_million_tokens=spec.output_cost_per_million_tokens,
        enabled=model.enabled,
        shared=model.shared,
    )
    message.create_time.FromDatetime(model.created_at)
    message.update_time.FromDatetime(model.updated_at)
    return message
