"""One call of a tool that the gateway or the host makes: its row, its events, and what the model reads of it. Pure."""

from dataclasses import dataclass
from functools import cached_property

from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.worker.link_pb2 import CallTool, ToolAnswer
from services.common.clock import utc_now
from services.common.grpc.json_values import to_struct
from services.common.grpc.times import duration_to_proto
from services.common.storable import storable
from services.orchestrator.domain.execution import Execution
from services.orchestrator.domain.question import QuestionedCall
from services.orchestrator.domain.tool import ResolvedTool, ToolCallState
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.tool_identity import source_of
from services.orchestrator.worker.host.call_outcomes import MOST_TOLD, call_id, cut_for_model, next_call_id
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.recorder import Change, TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal

Key = tuple[int, str]
"""What tells a call apart from all others of its execution: its task's index, and its key in that."""


@dataclass(frozen=True)
class RemoteCall:
    """A call that a crew process waits for."""

    execution: Execution
    journal: TaskJournal
    request: CallTool
    tool: ResolvedTool
    before: ToolCall | None = None
    """The call as it was made before, without effect, if it is to be made again."""

    @property
    def key(self) -> Key:
        """See `Key`."""
        return self.journal.index, self.request.key

    @property
    def task(self) -> TaskRef:
        """The attempt at a task that it belongs to."""
        return self.journal.task

    @property
    def arguments(self) -> str:
        """What is to be sent, as JSON text: what the model wrote, or what was sent before."""
        return self.request.arguments_json if self.before is None else self.before.arguments

    @cached_property
    def source(self) -> str:
        """The tool's source; empty for a built-in one."""
        return source_of(self.tool.name)

    # ---- rows of the journal

    def to_approve(self) -> ToolCall:
        """Return the call as a person is asked about it. The answer counts for all rounds."""
        return ToolCall(ToolCallState.INTENT, "", "", self.tool.name, self._id, arguments=self.arguments)

    def intent(self, arguments: str) -> ToolCall:
        """Return the call as it is about to be made, with the arguments that are sent."""
        return ToolCall(
            ToolCallState.INTENT,
            "",
            "",
            self.tool.name,
            self._id,
            self._round,
            arguments,
            self.tool.hash,
            self.tool.idempotent,
            intended_at=utc_now(),
        )

    def unmade(self, reason: str, message: str) -> ToolCall:
        """Return the call as one that is not made, for an ErrorReason."""
        return ToolCall(
            ToolCallState.FAILED,
            "",
            storable(message),
            self.tool.name,
            self._id,
            self._round,
            arguments=self.arguments,
            tool_hash=self.tool.hash,
            idempotent=self.tool.idempotent,
            reason=reason,
        )

    def put(self, row: ToolCall) -> Change:
        """Return the change that stores the call."""

        async def put(write: FencedWrite) -> None:
            await write.put_tool_call(*self.key, row)

        return put

    # ---- what others read of it

    def started(self, row: ToolCall) -> execution_pb2.ToolCallStarted:
        """Return the event of its beginning."""
        return execution_pb2.ToolCallStarted(
            call_id=row.call_id,
            tool_name=row.tool,
            arguments_json=row.arguments[:MOST_TOLD],
            idempotent=self.tool.idempotent,
            source=self.source,
        )

    def questioned(self, row: ToolCall) -> QuestionedCall:
        """Return what a person sees of it who is asked."""
        return QuestionedCall(
            key=self.request.key,
            call_id=row.call_id,
            round=row.round,
            tool=row.tool,
            source=self.source,
            arguments=row.arguments,
            agent_role=self.request.agent_role,
            agent_text=self.request.agent_text,
        )

    def answer(self, row: ToolCall) -> ToolAnswer:
        """Return what the model reads of its end."""
        if row.state is ToolCallState.FAILED:
            error = row.error or "it failed without saying why"
            return ToolAnswer(error=cut_for_model(error, self.tool.result_limit, row.call_id))
        return ToolAnswer(output=cut_for_model(row.output, self.tool.result_limit, row.call_id))

    def to_execute(self, row: ToolCall, *, begun_before: bool) -> pb.ExecuteToolCallRequest:
        """Return what the gateway is asked for."""
        return pb.ExecuteToolCallRequest(
            call_id=row.call_id,
            execution_id=self.execution.id,
            tool=self.tool.name,
            tool_hash=row.tool_hash,
            arguments_json=row.arguments,
            config=to_struct(self.tool.config),
            labels=self.execution.labels,
            idempotent=row.idempotent,
            timeout=duration_to_proto(self.tool.timeout),
            max_timeout=duration_to_proto(self.tool.max_timeout),
            begun_before=begun_before,
            grant_id=self.execution.grant_id,
        )

    @property
    def _round(self) -> int:
        return 0 if self.before is None else self.before.round + 1

    @cached_property
    def _id(self) -> str:
        if self.before is None:
            return call_id(self.execution.id, *self.key)
        return next_call_id(self.before.call_id, self._round)
