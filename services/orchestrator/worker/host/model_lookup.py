"""What a host has to know of a crew's models and memory before it can run a task."""

import asyncio
import time
from collections.abc import Callable, Iterable

from cachetools import TTLCache

from coxswain.memory.v1 import memory_service_pb2_grpc
from coxswain.models.v1 import model_pb2, model_service_pb2_grpc
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.messages.crews import memory_id_request_to_proto
from services.orchestrator.worker.host.peer_retry import call_peer
from services.orchestrator.worker.host.principals import ExecutionPrincipal

_KEPT_SECONDS = 30.0
_KEPT_MODELS = 1000


class ModelLookup:
    """Asks the models and the memory service; what a model can do is kept for half a minute."""

    def __init__(
        self,
        models: "model_service_pb2_grpc.ModelServiceAsyncStub",
        memory: "memory_service_pb2_grpc.MemoryServiceAsyncStub",
        *,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`retry_seconds` is for how long an absent service is asked again."""
        self._models = models
        self._memory = memory
        self._retry_seconds = retry_seconds
        self._known: TTLCache[tuple[str, str], model_pb2.Model] = TTLCache(_KEPT_MODELS, _KEPT_SECONDS, clock)

    async def capabilities(
        self, names: Iterable[str], group_id: str, principal: ExecutionPrincipal
    ) -> list[model_pb2.Model]:
        """Return name, capabilities and the limit of a prompt of each model.

        Raises:
            CoxswainError: the group does not have this model, or the service stays absent.
        """
        called = sorted(set(names))
        return await asyncio.gather(*(self._capabilities(name, group_id, principal) for name in called))

    async def _capabilities(self, name: str, group_id: str, principal: ExecutionPrincipal) -> model_pb2.Model:
        # Asked by each execution for itself: a refusal may be due to its own credential.
        known = self._known.get((group_id, name))
        if known is not None:
            return known
        request = model_pb2.GetModelRequest(name=name)
        response = await call_peer(principal, "models", self._models.GetModel, request, self._retry_seconds)
        model = response.model
        limit = model.max_input_tokens or model.context_window
        found = model_pb2.Model(name=name, capabilities=model.capabilities, max_input_tokens=limit)
        self._known[group_id, name] = found
        return found

    async def memory_id(self, spec: CrewSpec, principal: ExecutionPrincipal) -> str:
        """Return under which id the memories of a crew lie; `spec` is its document, models not filled in.

        Raises:
            CoxswainError: the memory service refused, or stays absent.
        """
        request = memory_id_request_to_proto(spec)
        response = await call_peer(principal, "memory", self._memory.DeriveMemoryId, request, self._retry_seconds)
        return response.memory_id
