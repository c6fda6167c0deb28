"""Counts the tool calls of one execution, and keeps them to its limits."""

from collections.abc import Collection

from services.common.clock import utc_now
from services.orchestrator.domain.execution import Execution, Usage
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.domain.tool_usage import ToolCallOutcome, ToolUsageRecord
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.tool_identity import source_of
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.usage_total import UsageTotal

_OUTCOMES = {
    ToolCallState.COMPLETED: ToolCallOutcome.OK,
    ToolCallState.UNKNOWN: ToolCallOutcome.UNKNOWN,
    ToolCallState.CANCELLED: ToolCallOutcome.CANCELLED,
}


class ToolMeter:
    """What the tool calls of one execution use: in its sum, its task's, and a row of each call."""

    def __init__(self, execution: Execution, recorder: Recorder, usage: UsageTotal) -> None:
        """What calls use is added to `usage`, and stored by `recorder` with what is stored next."""
        self._execution = execution
        self._recorder = recorder
        self._usage = usage

    def check(self, cost: float, under_way: Collection[float]) -> None:
        """Return if a tool may be called that costs so much, beside calls under way of which each costs so much.

        Raises:
            ResourceExhausted: the execution has reached a limit.
        """
        self._usage.check_tool_call(cost, under_way)

    def count(
        self,
        journal: TaskJournal,
        call: ToolCall,
        *,
        made: bool,
        cost: float = 0.0,
        seconds: float | None = None,
        argument_bytes: int | None = None,
    ) -> None:
        """Count a call that has ended.

        `made` says that it was made, or may have been; only then it has cost something. `argument_bytes` is for calls
        whose arguments are not known.
        """
        if made:
            used = Usage(tool_calls=1, cost=cost)
            self._usage.add(used)
            self._recorder.use(journal.index, used)
        outcome = _OUTCOMES.get(call.state) or ToolCallOutcome.of_failure(call.reason)
        returned = made and outcome in {ToolCallOutcome.OK, ToolCallOutcome.FAILED}
        self._recorder.record_tool_call(
            ToolUsageRecord(
                id=call.call_id,
                group_id=self._execution.group_id,
                subject=self._execution.subject,
                execution_id=self._execution.id,
                crew=self._execution.crew_name,
                task=journal.task.task_name,
                labels=self._execution.labels,
                source=source_of(call.tool),
                tool=call.tool,
                called_at=call.intended_at or utc_now(),
                seconds=seconds or 0.0,
                argument_bytes=len(call.arguments.encode()) if argument_bytes is None else argument_bytes,
                result_bytes=len((call.output or call.error).encode(errors="replace")) if returned else 0,
                outcome=outcome,
                cost=cost if made else 0.0,
            )
        )
