"""Journals the tool calls of a crew process, so that none with side effects runs twice."""

from datetime import datetime

from google.protobuf.message import Message

from coxswain.orchestrator.worker.link_pb2 import BeginTool, EndTool, ToolPermission
from services.common.clock import utc_now
from services.common.tracing.spans import NO_SPAN, Span, apart
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.worker.host.call_outcomes import call_id
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_meter import ToolMeter
from services.orchestrator.worker.link.errors import TaskError

# No policy of a source is about them.
_COST = 0.0


class ToolCalls:
    """The journal of tool calls of one execution."""

    def __init__(self, execution_id: str, recorder: Recorder, meter: ToolMeter) -> None:
        """Calls that have ended are counted by `meter`."""
        self._execution_id = execution_id
        self._recorder = recorder
        self._meter = meter
        self._under_way: dict[tuple[int, str], tuple[datetime, Span]] = {}
        """When each began, and what traces show of it."""

    def begin_task(self, index: int) -> None:
        """Forget calls of the attempt before: if it has not told of their end, it does so no more."""
        for _, call in (begun for key, begun in self._under_way.items() if key[0] == index):
            call.end()
        self._under_way = {key: begun for key, begun in self._under_way.items() if key[0] != index}

    async def begin_tool(self, journal: TaskJournal, request: BeginTool) -> ToolPermission:
        """Return whether a tool call may run, or its result if it has one already.

        Raises:
            TaskError: it may have run already, and must not run twice.
            ResourceExhausted: the execution has had all the tool calls that it may have.
        """
        known = journal.tool_calls.get(request.key)
        if known is not None and known.state is not ToolCallState.INTENT:
            return ToolPermission(done=True, output=known.output, error=known.error)
        if known is not None and not request.idempotent:
            raise TaskError(
                "TOOL_OUTCOME_UNKNOWN",
                f'the tool "{request.tool}" was started before its worker was lost; whether it has done its work is '
                "not known, and it must not run twice: find out, then resume the execution",
                fatal=True,
            )
        self._meter.check(_COST, [_COST] * len(self._under_way))
        call = apart("call tool", attributes={"coxswain.tool": request.tool})
        self._under_way[journal.index, request.key] = utc_now(), call
        if not request.idempotent:

            async def intend(write: FencedWrite) -> None:
                await write.intend_tool_call(journal.index, request.key, request.tool, idempotent=False)

            await self._recorder.commit([], intend)
        return ToolPermission()

    async def end_tool(self, journal: TaskJournal, request: EndTool) -> None:
        """Keep the outcome of a tool call; of one that must not run twice, before this returns."""
        state = ToolCallState.FAILED if request.error else ToolCallState.COMPLETED
        begun, span = self._under_way.pop((journal.index, request.key), (None, NO_SPAN))
        if request.error:
            span.fail("TOOL_FAILED")
        span.end()
        call = ToolCall(
            state,
            request.output,
            request.error,
            request.tool,
            call_id(self._execution_id, journal.index, request.key),
            idempotent=request.idempotent,
            intended_at=begun,
        )
        journal.tool_calls[request.key] = call

        async def end(write: FencedWrite) -> None:
            if request.idempotent:
                await write.intend_tool_call(journal.index, request.key, request.tool, idempotent=True)
            await write.end_tool_call(journal.index, request.key, request.output, request.error)

        self._meter.count(
            journal,
            call,
            made=True,
            cost=_COST,
            seconds=None if begun is None else (utc_now() - begun).total_seconds(),
            argument_bytes=request.argument_bytes,
        )
        if request.idempotent:
            self._recorder.also_store(end)
        else:
            await self._recorder.commit([], end)

    def event(self, journal: TaskJournal, event: Message) -> None:
        """Store an event of a tool call."""
        self._recorder.add(journal.task, event)
