"""Other services, as use cases see them."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import grpc
import structlog

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2, group_limits_pb2
from coxswain.memory.v1 import memory_pb2, memory_service_pb2_grpc, record_pb2
from coxswain.models.v1 import model_pb2, model_service_pb2_grpc
from services.common.cache import ExpiringCache
from services.common.grpc.call import acting_as, current_call
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.limit_messages import limits_from_proto
from services.common.grpc.peers import Peers
from services.common.grpc.status import from_rpc_error
from services.common.identity.group_limits import GroupLimits
from services.orchestrator.domain.crew import CrewSpec, KnowledgeMemory
from services.orchestrator.domain.execution import ExecutionIdentity, OnCredentialExpiry
from services.orchestrator.messages.crews import memory_id_request_to_proto
from services.orchestrator.messages.knowledge import knowledge_namespace, records_filter
from services.orchestrator.usecases.model_needs import Capability
from services.orchestrator.usecases.ports import Grant, ModelInfo

_COPIED_AT_ONCE = 200
_COUNT_SECONDS = 5.0
_CALLABLE = {model_pb2.CREDENTIAL_AVAILABILITY_NOT_NEEDED, model_pb2.CREDENTIAL_AVAILABILITY_AVAILABLE}
_CALLABLE_SIZE = 10_000
_CALLABLE_SECONDS = 60.0

logger = structlog.get_logger(__name__)


class RemoteModels:
    """See `ports.Models`."""

    def __init__(self, peers: Peers) -> None:
        self._stub: model_service_pb2_grpc.ModelServiceAsyncStub = model_service_pb2_grpc.ModelServiceStub(
            peers.channel("models")
        )
        # With a credential a start costs auth no question, but for the first one of a group within this time.
        self._callable = ExpiringCache[tuple[str, str], bool](_CALLABLE_SIZE)

    async def find(self, name: str) -> ModelInfo:
        """See `ports.Models`."""
        key = _group_id(), name
        checked = self._callable.get(key) is None
        try:
            response = await self._stub.GetModel(model_pb2.GetModelRequest(name=name, check_credential=checked))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "models") from error
        secret_name = _secret_name(response.model.provider)
        # A key of the group is there for all of it, whoever acts.
        if key[0] and secret_name and response.model.credential in _CALLABLE:
            self._callable.put(key, True, time.monotonic() + _CALLABLE_SECONDS)
        offered = response.model.capabilities
        return ModelInfo(
            enabled=response.model.enabled,
            capabilities=frozenset(capability for capability in Capability if getattr(offered, capability)),
            writes_freely=response.model.provider != model_pb2.PROVIDER_OFFLINE,
            priced=response.model.HasField("input_cost_per_million_tokens")
            and response.model.HasField("output_cost_per_million_tokens"),
            lacks_credential=response.model.credential == model_pb2.CREDENTIAL_AVAILABILITY_MISSING,
            secret_name=secret_name,
        )


def _group_id() -> str:
    """Return the group of the call that is served; empty while there is none, as when a schedule or a batch starts."""
    try:
        principal = current_call().principal
    except LookupError:
        return ""
    return "" if principal is None else principal.group_id


def _secret_name(provider: int) -> str:
    """Return the name of the secret that auth looks for, see `chains/names.py` there.

    Empty where that is not known, and where a credential may be the caller's own.
    """
    names: dict[int, str] = {
        number: name.removeprefix("PROVIDER_").lower() for name, number in model_pb2.Provider.items()
    }
    unnamed = {model_pb2.PROVIDER_UNSPECIFIED, model_pb2.PROVIDER_DATABRICKS, model_pb2.PROVIDER_LITELLM}
    return f"llm/{names[provider]}" if provider in names and provider not in unnamed else ""


class RemoteMemories:
    """See `ports.Memories`."""

    def __init__(self, peers: Peers) -> None:
        self._stub: memory_service_pb2_grpc.MemoryServiceAsyncStub = memory_service_pb2_grpc.MemoryServiceStub(
            peers.channel("memory")
        )

    async def memory_id(self, spec: CrewSpec) -> str:
        """See `ports.Memories`."""
        try:
            return (await self._stub.DeriveMemoryId(memory_id_request_to_proto(spec))).memory_id
        except grpc.RpcError as error:
            raise from_rpc_error(error, "memory") from error

    async def is_empty(self, memory: KnowledgeMemory) -> bool:
        """See `ports.KnownMemories`."""
        request = memory_pb2.CountRecordsRequest(
            namespace=knowledge_namespace(memory), filter=records_filter(memory.scope, memory.document_ids)
        )
        try:
            return (await self._stub.CountRecords(request, timeout=_COUNT_SECONDS)).count == 0
        except grpc.RpcError as error:
            logger.info("knowledge_not_counted", reason=from_rpc_error(error, "memory").reason)
            return False

    async def copy(self, source_id: str, before: CrewSpec, target_id: str, after: CrewSpec) -> int:
        """See `ports.Memories`."""
        same_vectors = before.memory.embedding_model == after.memory.embedding_model
        listing = memory_pb2.ListRecordsRequest(
            namespace=_unified(source_id),
            filter=memory_pb2.RecordFilter(include_private=True),
            page_size=_COPIED_AT_ONCE,
            include_embeddings=same_vectors,
        )
        copied = 0
        try:
            while True:
                page = await self._stub.ListRecords(listing)
                for record in page.records:
                    scope = record.unified.scope
                    if scope == before.memory_scope or scope.startswith(f"{before.memory_scope}/"):
                        record.unified.scope = after.memory_scope + scope[len(before.memory_scope) :]
                if page.records:
                    saving = memory_pb2.SaveRecordsRequest(
                        namespace=_unified(target_id),
                        records=page.records,
                        embedding_model=after.memory.embedding_model,
                        crew_name=after.name,
                    )
                    await self._stub.SaveRecords(saving)
                copied += len(page.records)
                if not page.next_page_token:
                    return copied
                listing.page_token = page.next_page_token
        except grpc.RpcError as error:
            raise from_rpc_error(error, "memory") from error


class RemoteGrants:
    """See `ports.Grants`."""

    def __init__(self, peers: Peers) -> None:
        self._stub: auth_service_pb2_grpc.AuthServiceAsyncStub = auth_service_pb2_grpc.AuthServiceStub(
            peers.channel("auth")
        )

    async def create(self, execution_id: str, identity: ExecutionIdentity, expiry: OnCredentialExpiry) -> Grant:
        """See `ports.Grants`."""
        request = delegation_pb2.CreateDelegationRequest(
            execution_id=execution_id,
            identity=enum_to_proto(delegation_pb2.ExecutionIdentity, identity),
            on_credential_expiry=enum_to_proto(delegation_pb2.OnCredentialExpiry, expiry),
        )
        try:
            response = await self._stub.CreateDelegation(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        granted = enum_from_proto(ExecutionIdentity, delegation_pb2.ExecutionIdentity, response.identity)
        return Grant(response.grant_id, granted)

    async def renew(self, execution_id: str) -> None:
        """See `ports.Grants`."""
        try:
            await self._stub.RenewDelegation(delegation_pb2.RenewDelegationRequest(execution_id=execution_id))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error

    @contextlib.asynccontextmanager
    async def acting(self, grant_id: str, execution_id: str) -> AsyncIterator[GroupLimits]:
        """See `ports.Grants`."""
        request = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id=execution_id)
        try:
            issued = await self._stub.IssueExecutionPrincipal(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        with acting_as(issued.principal_token):
            yield limits_from_proto(issued.limits)

    async def revoke(self, execution_id: str) -> None:
        """See `ports.Grants`."""
        try:
            await self._stub.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id=execution_id))
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error


class RemoteGroupLimits:
    """See `running_limits.LimitSource`."""

    def __init__(self, peers: Peers) -> None:
        self._stub: auth_service_pb2_grpc.AuthServiceAsyncStub = auth_service_pb2_grpc.AuthServiceStub(
            peers.channel("auth")
        )

    async def limits_of(self, group_ids: Sequence[str]) -> list[GroupLimits]:
        """See `running_limits.LimitSource`."""
        try:
            response = await self._stub.GetLimitsOfGroups(
                group_limits_pb2.GetLimitsOfGroupsRequest(group_ids=group_ids)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        return [limits_from_proto(each) for each in response.limits]


def _unified(memory_id: str) -> memory_pb2.Namespace:
    return memory_pb2.Namespace(memory_id=memory_id, kind=record_pb2.MEMORY_KIND_UNIFIED)
