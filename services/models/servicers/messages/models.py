"""Models and changes of them."""

from dataclasses import fields
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.models.v1 import model_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.validation import validate
from services.common.identity.credentials import CredentialAvailability
from services.models.domain.model import (
    CHANGEABLE_FIELDS,
    Capabilities,
    Deployment,
    Fallbacks,
    Model,
    ModelSpec,
    Provider,
)

_CAPABILITIES = tuple(field.name for field in fields(Capabilities))
_FALLBACKS = tuple(field.name for field in fields(Fallbacks))
_CONFIGURED = tuple(field.name for field in fields(ModelSpec))


def model_spec_from_proto(model: pb.Model) -> ModelSpec:
    """Return the configuration of a model.

    Raises:
        InvalidArgument: no provider is named.
    """
    if model.provider == pb.PROVIDER_UNSPECIFIED:
        raise InvalidArgument.field("model.provider", "has to be set to the provider that serves the model")
    values = {name: _given(model, name) for name in _CONFIGURED}
    values["provider"] = enum_from_proto(Provider, pb.Provider, model.provider)
    values["capabilities"] = Capabilities(**{name: getattr(model.capabilities, name) for name in _CAPABILITIES})
    values["provider_options"] = dict(model.provider_options)
    values["unsupported_parameters"] = tuple(model.unsupported_parameters)
    values["fallbacks"] = Fallbacks(**{name: tuple(getattr(model.fallbacks, name)) for name in _FALLBACKS})
    values["deployments"] = tuple(
        Deployment(given.base_url, given.upstream_model, given.weight) for given in model.deployments
    )
    return ModelSpec(**values)


def _given(model: pb.Model, name: str) -> Any:
    """Return the value of a field; None when it is absent, where that differs from its default."""
    absent = pb.Model.DESCRIPTOR.fields_by_name[name].has_presence and not model.HasField(name)  # type: ignore[arg-type]
    return None if absent else getattr(model, name)


def changed_model_spec(present: Model, given: pb.Model, mask: FieldMask) -> ModelSpec:
    """Return the configuration of a model in which the fields that a mask names are as given.

    Raises:
        InvalidArgument: the mask names what cannot be changed, or a value breaks a rule.
    """
    message = model_to_proto(present)
    replace_fields(message, given, mask_paths(mask, CHANGEABLE_FIELDS))
    validate(message, "model")
    return model_spec_from_proto(message)


def model_to_proto(model: Model, credential: CredentialAvailability | None = None) -> pb.Model:
    """Return a model as one caller sees it; None does not say whether they have its credential."""
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
        max_input_tokens=spec.max_input_tokens,
        max_output_tokens=spec.max_output_tokens,
        embedding_dimension=spec.embedding_dimension,
        max_texts_per_request=spec.max_texts_per_request,
        temperature=spec.temperature,
        input_cost_per_million_tokens=spec.input_cost_per_million_tokens,
        output_cost_per_million_tokens=spec.output_cost_per_million_tokens,
        provider_options=spec.provider_options,
        cached_input_cost_per_million_tokens=spec.cached_input_cost_per_million_tokens,
        cache_write_cost_per_million_tokens=spec.cache_write_cost_per_million_tokens,
        keep_think_tags=spec.keep_think_tags,
        unsupported_parameters=spec.unsupported_parameters,
        fallbacks=(
            pb.Fallbacks(**{name: getattr(spec.fallbacks, name) for name in _FALLBACKS})
            if spec.fallbacks != Fallbacks()
            else None
        ),
        deployments=[
            pb.Deployment(
                base_url=deployment.base_url, upstream_model=deployment.upstream_model, weight=deployment.weight
            )
            for deployment in spec.deployments
        ],
        enabled=model.enabled,
        shared=model.shared,
        revision=model.revision,
        credential=(
            enum_to_proto(pb.CredentialAvailability, credential)
            if credential
            else pb.CREDENTIAL_AVAILABILITY_UNSPECIFIED
        ),
        listed_fields=model.listed_fields,
    )
    message.create_time.FromDatetime(model.created_at)
    message.update_time.FromDatetime(model.updated_at)
    return message
