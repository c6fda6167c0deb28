"""`coxswain.models.v1.ModelService`."""

from coxswain.models.v1 import model_pb2 as pb
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.handler import Context
from services.common.identity.credentials import CredentialAvailability
from services.common.resource_key import key_from_proto
from services.models.domain.model import Model
from services.models.servicers.messages.models import (
    changed_model_spec,
    model_spec_from_proto,
    model_to_proto,
)
from services.models.usecases.credential_checks import CredentialChecks
from services.models.usecases.models import Models


class ModelServicer(ModelServiceServicer):
    """Configuration of models over gRPC."""

    def __init__(self, models: Models, credentials: CredentialChecks) -> None:
        self._models = models
        self._credentials = credentials

    async def _to_proto(self, *models: Model, check: bool = False) -> list[pb.Model]:
        # Other services look a model up on their way to a call of it, which finds out by itself.
        credentials = {} if current_call().service and not check else await self._credentials.check(models)
        for model in models:
            if model.enabled and credentials.get(model.id) is CredentialAvailability.AVAILABLE:
                self._models.expect_calls(model)
        return [model_to_proto(model, credentials.get(model.id)) for model in models]

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """See the proto."""
        page = await self._models.page(
            current_principal(), request.page_size, request.page_token, enabled_only=request.enabled_only
        )
        models = await self._to_proto(*page.items)
        return pb.ListModelsResponse(models=models, next_page_token=page.next_page_token)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """See the proto."""
        model = await self._models.get(current_principal(), key_from_proto(request))
        if current_call().service:
            self._models.expect_calls(model)
        (message,) = await self._to_proto(model, check=request.check_credential)
        return pb.GetModelResponse(model=message)

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.CreateModelResponse:
        """See the proto."""
        principal = current_principal()
        model = await self._models.create(
            principal, model_spec_from_proto(request.model), request_key(principal, request)
        )
        (message,) = await self._to_proto(model)
        return pb.CreateModelResponse(model=message)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.UpdateModelResponse:
        """See the proto."""
        model = await self._models.update(
            current_principal(),
            key_from_proto(request),
            lambda present: changed_model_spec(present, request.model, request.update_mask),
            request.expected_revision,
        )
        (message,) = await self._to_proto(model)
        return pb.UpdateModelResponse(model=message)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        """See the proto."""
        await self._models.delete(current_principal(), key_from_proto(request))
        return pb.DeleteModelResponse()

    async def SetModelEnabled(self, request: pb.SetModelEnabledRequest, context: Context) -> pb.SetModelEnabledResponse:
        """See the proto."""
        key = key_from_proto(request)
        model = await self._models.set_enabled(current_principal(), key, enabled=request.enabled)
        (message,) = await self._to_proto(model)
        return pb.SetModelEnabledResponse(model=message)
