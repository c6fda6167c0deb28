"""`coxswain.models.v1.ModelService`."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.models.v1 import model_pb2 as pb
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceServicer
from services.common.db.idempotency import request_hash
from services.common.errors import InvalidArgument
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.validation import validate
from services.models.domain.model import Provider
from services.models.repositories.models import RequestKey
from services.models.servicers.messages import key_of, model_message, spec_of
from services.models.usecases.models import Models


class ModelServicer(ModelServiceServicer):
    """Configuration of models over gRPC."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """List the models of the caller's group."""
        page, token = await self._models.page(
            current_principal(), request.page_size, request.page_token, enabled_only=request.enabled_only
        )
        return pb.ListModelsResponse(models=[model_message(model) for model in page], next_page_token=token)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        """Return one model."""
        return pb.GetModelResponse(model=model_message(await self._models.get(current_principal(), key_of(request))))

    async def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> pb.CreateModelResponse:
        """Add a model."""
        if request.model.provider == pb.PROVIDER_UNSPECIFIED:
            raise InvalidArgument.field("model.provider", "name the provider the model is reached through")
        principal = current_principal()
        key = None
        if request.request_id:
            key = RequestKey(
                principal.subject, current_call().method, request.request_id, request_hash(request, "request_id")
            )
        return pb.CreateModelResponse(
            model=model_message(await self._models.create(principal, spec_of(request.model), key))
        )

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.UpdateModelResponse:
        """Change a model."""
        paths = set(request.update_mask.paths)
        changes = _named(request.model, paths)
        validate(changes, "model")
        names_provider = bool(paths & {"provider", "*"})
        if names_provider and changes.provider == pb.PROVIDER_UNSPECIFIED:
            raise InvalidArgument.field("model.provider", "name the provider the model is reached through")
        # A provider the mask does not name is never looked at.
        spec = spec_of(changes, provider=None if names_provider else Provider.OFFLINE)
        return pb.UpdateModelResponse(
            model=model_message(await self._models.update(current_principal(), key_of(request), spec, paths))
        )

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> pb.DeleteModelResponse:
        """Remove a model."""
        await self._models.delete(current_principal(), key_of(request))
        return pb.DeleteModelResponse()

    async def SetModelEnabled(self, request: pb.SetModelEnabledRequest, context: Any) -> pb.SetModelEnabledResponse:
        """Switch a model."""
        model = await self._models.set_enabled(current_principal(), key_of(request), enabled=request.enabled)
        return pb.SetModelEnabledResponse(model=model_message(model))


def _named(model: pb.Model, paths: set[str]) -> pb.Model:
    """Return what a mask names of a model; what the mask may not name is refused later."""
    if "*" in paths:
        return model
    mask = FieldMask(
        paths=[path for path in paths if FieldMask(paths=[path]).IsValidForDescriptor(pb.Model.DESCRIPTOR)]
    )
    named = pb.Model()
    mask.MergeMessage(model, named)
    return named
