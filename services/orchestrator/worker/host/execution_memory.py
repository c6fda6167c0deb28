"""The memories that an execution may look into: its crew's own, and those that the crew's document names."""

from collections.abc import Collection, Mapping
from typing import Any

from coxswain.memory.v1 import memory_pb2
from services.orchestrator.domain.crew import RecallSpec
from services.orchestrator.placeholders import interpolate
from services.orchestrator.worker.host.memory_calls import MemoryCalls
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState


class ExecutionMemory:
    """Opens memories with the principal of one execution."""

    def __init__(self, context: RunContext, state: RunState, principal: ExecutionPrincipal) -> None:
        self._context = context
        self._state = state
        self._principal = principal
        self._id: str | None = None

    async def open(self, knowledge: Collection[memory_pb2.Namespace] = ()) -> MemoryCalls:
        """Return the memory of the crew, and what the document names besides.

        Raises:
            CoxswainError: the memory service refused, or stays absent.
        """
        if self._id is None:
            # By the crew as it was written: a model for one execution or a new default must not change its memories.
            enabled = self._state.spec.memory.enabled
            self._id = await self._context.models.memory_id(self._state.document, self._principal) if enabled else ""
        return self._calls(self._id, knowledge)

    async def own(self) -> MemoryCalls | None:
        """Return the memory of the crew; None when it has none."""
        return await self.open() if self._state.spec.memory.enabled else None

    @property
    def recall(self) -> RecallSpec:
        """How the crew's own memories are to be found."""
        return self._state.spec.memory.recall

    def named(self, namespace: memory_pb2.Namespace) -> MemoryCalls:
        """Return what may search one namespace that the document names."""
        return self._calls("", [namespace])

    def agents_of(self, role: str) -> frozenset[str]:
        """Return the names of the agents of a role, in which the inputs are filled in."""
        inputs = self._state.execution.inputs
        return frozenset(agent.name for agent in self._state.spec.agents if _filled(agent.role, inputs) == role)

    def _calls(self, memory_id: str, knowledge: Collection[memory_pb2.Namespace]) -> MemoryCalls:
        context, execution, spec = self._context, self._state.execution, self._state.spec
        return MemoryCalls(
            context.stubs.memory,
            self._principal,
            memory_id=memory_id,
            crew_name=spec.name,
            embedding_model=spec.memory.embedding_model,
            retry_seconds=context.settings.peer_retry_seconds,
            confirm_claim=lambda: context.read(lambda: context.store.confirm_claim(execution.id, execution.epoch)),
            knowledge=knowledge,
            near_copy_similarity=spec.memory.near_copy_similarity,
        )


def _filled(role: str, inputs: Mapping[str, Any]) -> str:
    try:
        return interpolate(role, inputs)
    except KeyError:
        return role
