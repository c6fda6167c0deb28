"""Other services, as use cases see them."""

import grpc

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2
from coxswain.models.v1 import model_pb2, model_service_pb2_grpc
from services.common.grpc.peers import Peers
from services.common.grpc.status import from_rpc_error
from services.orchestrator.domain.execution import ExecutionIdentity, OnCredentialExpiry
from services.orchestrator.usecases.model_needs import Capability
from services.orchestrator.usecases.ports import Grant, ModelFacts


class RemoteModels:
    """See `ports.Models`."""

    def __init__(self, peers: Peers) -> None:
        self._stub: model_service_pb2_grpc.ModelServiceAsyncStub = model_service_pb2_grpc.ModelServiceStub(
            peers.channel("models")
        )

    async def find(self, name: str) -> ModelFacts:
        """See `ports.Models`."""
        try:
            response = await self._stub.GetModel(model_pb2.GetModelRequest(name=name))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "models") from error
        offered = response.model.capabilities
        return ModelFacts(
            enabled=response.model.enabled,
            capabilities=frozenset(capability for capability in Capability if getattr(offered, capability)),
        )


class RemoteGrants:
    """See `ports.Grants`."""

    def __init__(self, peers: Peers) -> None:
        self._stub: auth_service_pb2_grpc.AuthServiceAsyncStub = auth_service_pb2_grpc.AuthServiceStub(
            peers.channel("auth")
        )

    async def open(self, execution_id: str, identity: ExecutionIdentity, expiry: OnCredentialExpiry) -> Grant:
        """See `ports.Grants`."""
        request = delegation_pb2.CreateDelegationRequest(
            execution_id=execution_id,
            identity=delegation_pb2.ExecutionIdentity.Value(f"EXECUTION_IDENTITY_{identity}"),
            on_credential_expiry=delegation_pb2.OnCredentialExpiry.Value(f"ON_CREDENTIAL_EXPIRY_{expiry}"),
        )
        try:
            response = await self._stub.CreateDelegation(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        granted = delegation_pb2.ExecutionIdentity.Name(response.identity).removeprefix("EXECUTION_IDENTITY_")
        return Grant(response.grant_id, ExecutionIdentity(granted))

    async def renew(self, execution_id: str) -> None:
        """See `ports.Grants`."""
        try:
            await self._stub.RenewDelegation(delegation_pb2.RenewDelegationRequest(execution_id=execution_id))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error

    async def issue(self, grant_id: str, execution_id: str) -> str:
        """See `ports.Grants`."""
        request = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id=execution_id)
        try:
            return (await self._stub.IssueExecutionPrincipal(request)).principal_token
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error

    async def close(self, execution_id: str) -> None:
        """See `ports.Grants`."""
        try:
            await self._stub.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id=execution_id))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
