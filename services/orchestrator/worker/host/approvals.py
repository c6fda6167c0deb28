"""Results that a person has to approve before their execution continues."""

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.ids import new_id
from services.orchestrator.domain.approval import Approval, ApprovalState
from services.orchestrator.domain.execution import TaskOutput, TaskState
from services.orchestrator.messages.executions import output_to_proto
from services.orchestrator.worker.host.completion import Completion
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState, TaskProgress


class Approvals:
    """Requests approvals in one run, and applies the decisions."""

    def __init__(self, context: RunContext, state: RunState, recorder: Recorder, completion: Completion) -> None:
        self._context = context
        self._state = state
        self._recorder = recorder
        self._completion = completion

    async def ask(self, task: TaskProgress, output: TaskOutput) -> None:
        """Store a task's result as one that a person has to approve."""
        execution = self._state.execution
        approval = Approval(
            id=new_id(),
            execution_id=execution.id,
            group_id=execution.group_id,
            task_index=task.index,
            task_name=task.name,
            attempt=task.attempt,
            state=ApprovalState.PENDING,
            output=output,
            requested_at=utc_now(),
        )
        requested = execution_pb2.ApprovalRequested(approval_id=approval.id, output=output_to_proto(output))
        await self._recorder.commit([(task.ref, requested)], lambda write: write.ask_for_approval(approval))
        task.state, task.approval = TaskState.WAITING_FOR_APPROVAL, approval

    async def read(self) -> None:
        """Read the decisions made since the execution was claimed."""
        store, execution_id = self._context.store, self._state.execution.id
        approvals = await self._context.read(lambda: store.approvals(execution_id))
        for index, approval in approvals.items():
            self._state.tasks[index].approval = approval

    async def apply(self) -> None:
        """Complete the tasks whose results were approved; those that were refused may start again."""
        for task in self._state.tasks:
            if task.state is not TaskState.WAITING_FOR_APPROVAL:
                continue
            if task.approval is not None and task.approval.state is ApprovalState.APPROVED:
                await self._completion.complete(task, task.approval.output)
            elif task.approval is None or task.approval.state is ApprovalState.REFUSED:
                task.state = TaskState.PENDING
