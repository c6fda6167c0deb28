"""How an execution comes to wait for a person or a model, with nothing running."""

from collections.abc import Awaitable, Callable
from datetime import datetime

from coxswain.orchestrator.v1 import execution_pb2
from services.common.tracing.spans import current_span
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.events import new_event
from services.orchestrator.worker.host.completion import Completion
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState


class Parking:
    """Parks the execution of one run. Each method raises Fenced when another host has the execution."""

    def __init__(
        self,
        context: RunContext,
        state: RunState,
        recorder: Recorder,
        principal: ExecutionPrincipal,
        completion: Completion,
        on_rest: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_rest` is told as soon as it is stored that the execution is parked."""
        self._on_rest = on_rest
        self._context = context
        self._execution = state.execution
        self._recorder = recorder
        self._principal = principal
        self._completion = completion

    async def wait_for_answer(self) -> bool:
        """Park the execution, or end it if it was cancelled; return False when a person has just answered."""
        return await self._park(ExecutionState.WAITING_FOR_ANSWER)

    async def wait_for_credential(self) -> None:
        """Park the execution or, if its cancellation was requested, end it.

        A credential that was renewed before the execution was parked wakes it at once: the call that renewed it found
        nothing to wake.
        """
        await self._park(ExecutionState.WAITING_FOR_CREDENTIAL)
        store, execution = self._context.store, self._execution
        renewed = await self._principal.renewed()
        if renewed and await self._context.read(lambda: store.wake(execution.id, execution.epoch)):
            self._context.hints.publish(Hint(HintKind.EXECUTION_READY, execution.id))

    async def wait_for_models(self, wake_at: datetime) -> None:
        """Park the execution until a host wakes it or, if its cancellation was requested, end it."""
        await self._park(ExecutionState.WAITING_FOR_MODEL, wake_at)

    async def _park(self, state: ExecutionState, wake_at: datetime | None = None) -> bool:
        parked = cancelled = False

        async def park(write: FencedWrite) -> None:
            nonlocal parked, cancelled
            # The execution is locked: who asks for its end after this finds it parked, and ends it.
            cancelled = await write.cancel_requested()
            parked = not cancelled and (state is not ExecutionState.WAITING_FOR_ANSWER or await write.open_questions())
            if parked:
                event = execution_pb2.ExecutionParked(
                    state=execution_pb2.ExecutionState.Value(f"EXECUTION_STATE_{state}")
                )
                await write.append([new_event(event)])
                await write.park(state, wake_at)

        await self._recorder.commit([], park)
        if parked:
            current_span().note("coxswain.execution.state", state)
            await self._on_rest()
        if cancelled:
            await self._completion.cancel()
        return parked or cancelled
