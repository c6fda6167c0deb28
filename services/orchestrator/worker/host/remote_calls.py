"""Calls of tools that the gateway or the host makes: each at most once, unless the tool may be called twice.

A call is known by its task and its key, which is the same on every attempt (`worker/crew/occurrences.py`), and has a
row in the journal. An INTENT is stored before the gateway is asked; what has come of the call is stored with its event.
Who finds an INTENT asks the gateway under the same id. A call of which nobody knows whether it took effect becomes a
question to a person, never a failure: a model that is told of a failure calls again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from google.protobuf.message import Message

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.worker.link_pb2 import CallTool, ToolAnswer
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.storable import storable
from services.common.tracing.spans import Span, span
from services.orchestrator.domain.execution import Execution
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.domain.tool_question import Decision
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.worker.host.agent_tools import AgentTools
from services.orchestrator.worker.host.call_decisions import CallDecisions
from services.orchestrator.worker.host.call_listener import Listener
from services.orchestrator.worker.host.call_outcomes import (
    ended_by,
    ending_event,
    unknown_by,
    unknown_event,
    waits_for_person,
)
from services.orchestrator.worker.host.call_questions import CallQuestions
from services.orchestrator.worker.host.current_tools import CurrentTools
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.principals import CredentialExpired
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.remote_call import Key, RemoteCall
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_executors import ToolExecutors
from services.orchestrator.worker.host.tool_gateway_client import LeftWaiting
from services.orchestrator.worker.host.tool_meter import ToolMeter
from services.orchestrator.worker.host.tool_rules import ToolRules
from services.orchestrator.worker.link.errors import TaskError

_ATTEMPTS = 3
_PAUSES = Backoff(1.0, 10.0)


class RemoteCalls:
    """The calls of one run. They go on when the crew process that waits for them dies; its successor finds them."""

    def __init__(
        self,
        execution: Execution,
        executors: ToolExecutors,
        recorder: Recorder,
        meter: ToolMeter,
        questions: CallQuestions,
        rules: ToolRules,
        current: CurrentTools,
        on_failure: Callable[[BaseException], object],
    ) -> None:
        """`on_failure` gets what concerns the whole run: another host has the execution, its credential has expired."""
        self._execution = execution
        self._executors = executors
        self._recorder = recorder
        self._meter = meter
        self._questions = questions
        self._decisions = CallDecisions(questions)
        self._rules = rules
        self._current = current
        self._on_failure = on_failure
        self._tools = AgentTools({}, [])
        self._journals: dict[int, TaskJournal] = {}
        """Those of the newest attempts, by the tasks' indices."""
        self._in_flight: dict[Key, asyncio.Task[ToolAnswer]] = {}
        self._begun: dict[Key, tuple[RemoteCall, ToolCall]] = {}
        """Calls that the gateway makes now."""
        self._admitted: dict[Key, float] = {}
        """What calls cost that are made now, or about to be."""

    def use(self, tools: AgentTools) -> None:
        """Take over what the tools are that a crew process knows."""
        self._tools = tools

    def begin_attempt(self, journal: TaskJournal) -> None:
        """Tell a new attempt at a task of calls that the attempt before has begun, when they end."""
        self._journals[journal.index] = journal

    async def call(self, journal: TaskJournal, request: CallTool) -> ToolAnswer:
        """Return what the model reads of a call.

        Raises:
            TaskError: the attempt has to end, since a person is asked (WAITS_FOR_PERSON) or has ended the task.
            ResourceExhausted: the execution has had all the tool calls that it may have.
        """
        key = (journal.index, request.key)
        if key not in self._in_flight:
            call = RemoteCall(self._execution, journal, request, self._tools.tools[request.tool])
            task = self._in_flight[key] = asyncio.create_task(self._make(call))
            task.add_done_callback(lambda ended: self._forget(key, ended))
        # The crew process may die meanwhile, and its successor asks again.
        return await asyncio.shield(self._in_flight[key])

    async def settled(self, index: int) -> None:
        """Wait until no call of a task is being made."""
        while of_task := [task for (of, _), task in self._in_flight.items() if of == index]:
            await asyncio.wait(of_task)
            await asyncio.sleep(0)

    async def cancel(self) -> None:
        """Take back what is being made, and store what has come of it: the execution is about to end."""
        begun = dict(self._begun)
        await self.drop()
        await asyncio.gather(*(self._cancel(call, row) for call, row in begun.values()))

    async def drop(self) -> None:
        """Follow no call any more. Each goes on at the gateway, where the next run finds it."""
        running = list(self._in_flight.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _forget(self, key: Key, ended: asyncio.Task[ToolAnswer]) -> None:
        self._in_flight.pop(key, None)
        self._begun.pop(key, None)
        self._admitted.pop(key, None)
        error = None if ended.cancelled() else ended.exception()
        # Perhaps nobody waits for it any more.
        if error is not None and not isinstance(error, TaskError | CoxswainError):
            self._on_failure(error)

    async def _make(self, call: RemoteCall) -> ToolAnswer:
        known = call.journal.tool_calls.get(call.request.key)
        match known and known.state:
            case ToolCallState.COMPLETED | ToolCallState.FAILED if known is not None:
                self._tell_again(call, known)
                return call.answer(known)
            case ToolCallState.INTENT if known is not None:
                return await self._follow(call, known, begun_before=True)
            case ToolCallState.UNKNOWN if known is not None:
                return await self._settle(call, known)
            case _:
                return await self._begin(call)

    async def _begin(self, call: RemoteCall) -> ToolAnswer:
        """Have a call made, for the first time or again, if that complies with what is in force now."""
        call = replace(call, tool=await self._current.now(call.tool))
        tool, arguments = call.tool, call.arguments
        refusal = await self._rules.refusal(tool, *call.key, arguments)
        if refusal is not None:
            return self._refuse(call, *refusal)
        self._rules.count(tool.name, *call.key)
        if await self._rules.needs_approval(tool, arguments):
            approval = await self._decisions.approval(call)
            if approval.decision is Decision.REFUSE:
                feedback = f": {approval.feedback}" if approval.feedback else ""
                return await self._fail_unmade(call, "TOOL_REFUSED", f"a person refused this call{feedback}")
            if approval.decision is Decision.CALL_EDITED:
                arguments = approval.arguments
                refusal = await self._rules.refusal(tool, *call.key, arguments)
                if refusal is not None:
                    reason, message = refusal
                    return await self._fail_unmade(call, reason, f"a person changed the arguments, but {message}")
        # It may have been admitted in the round before.
        self._admitted.pop(call.key, None)
        self._meter.check(tool.cost, self._admitted.values())
        self._admitted[call.key] = tool.cost
        if not await self._executors.reachable(tool):
            return await self._fail_unmade(call, "TOOL_UNAVAILABLE", "tools cannot be reached now; try again later")
        return await self._make_now(call, call.intent(arguments))

    async def _make_now(self, call: RemoteCall, intent: ToolCall) -> ToolAnswer:
        """Store an intent, and have the call made."""
        started = call.started(intent)
        if intent.idempotent:
            self._recorder.add(call.task, started, call.put(intent))
        else:
            await self._recorder.commit([(call.task, started)], call.put(intent))
        self._remember(call, intent)
        return await self._follow(call, intent, begun_before=False)

    async def _follow(self, call: RemoteCall, row: ToolCall, *, begun_before: bool) -> ToolAnswer:
        """Have the gateway make a call, or find out what has become of it."""
        with span("call tool", attributes={"coxswain.tool": call.tool.name}) as made:
            return await self._followed(call, row, made, begun_before=begun_before)

    async def _followed(self, call: RemoteCall, row: ToolCall, made: Span, *, begun_before: bool) -> ToolAnswer:
        self._begun[call.key] = call, row
        self._admitted[call.key] = call.tool.cost
        listener = Listener(self._recorder, self._questions, call.journal, call.questioned(row))
        begun = asyncio.get_running_loop().time()
        try:
            outcome = await self._outcome(call, row, listener, begun_before=begun_before)
        except LeftWaiting:
            raise waits_for_person() from None
        finally:
            listener.flush()
        if outcome.HasField("failure"):
            made.fail(outcome.failure.reason)
        return await self._end(call, row, outcome, asyncio.get_running_loop().time() - begun)

    async def _outcome(
        self, call: RemoteCall, row: ToolCall, listener: Listener, *, begun_before: bool
    ) -> pb.ToolOutcome:
        """Return what comes of a call, asked for again for a while if its source is busy or away."""
        request = call.to_execute(row, begun_before=begun_before)
        outcome = await self._executors.execute(call.tool, request, listener)
        made = outcome.failure.made
        for attempt in range(1, _ATTEMPTS):
            if not outcome.failure.temporary or outcome.failure.reason == "TOOL_TIMEOUT":
                break
            await asyncio.sleep(_PAUSES.pause(attempt))
            request = call.to_execute(row, begun_before=False)
            outcome = await self._executors.execute(call.tool, request, listener)
            made = made or outcome.failure.made
        if made and outcome.HasField("failure"):
            outcome.failure.made = True
        return outcome

    async def _end(self, call: RemoteCall, row: ToolCall, outcome: pb.ToolOutcome, seconds: float) -> ToolAnswer:
        if outcome.HasField("failure") and outcome.failure.reason == "CREDENTIAL_EXPIRED":
            # Without effect: the next run makes it with the renewed one.
            raise CredentialExpired(outcome.failure.message)
        if outcome.HasField("failure") and outcome.failure.reason == "TOOL_CANCELLED":
            # An execution that this one continues has taken it back, for good under that id.
            return await self._begin(replace(call, before=row))
        if outcome.HasField("unknown") and not row.idempotent:
            unknown = unknown_by(row, outcome)
            self._count(call, unknown, outcome, seconds)
            self._remember(call, unknown)
            events = [(call.task, unknown_event(unknown))]
            await self._decisions.ask_what_happened(call, unknown, events, call.put(unknown))
            raise waits_for_person()
        ended = ended_by(row, outcome)
        self._count(call, ended, outcome, seconds)
        if ended.output:
            ended = replace(ended, output=f"{self._decisions.words(call)}{ended.output}")
        await self._store_end(call, ended, seconds)
        return call.answer(ended)

    def _count(self, call: RemoteCall, ended: ToolCall, outcome: pb.ToolOutcome, seconds: float | None) -> None:
        if outcome.HasField("unknown"):
            # What may be called twice has failed for the model; it may have been made all the same.
            ended = replace(ended, state=ToolCallState.UNKNOWN)
        made = outcome.failure.made or not outcome.HasField("failure")
        self._meter.count(call.journal, ended, made=made, cost=call.tool.cost, seconds=seconds)

    async def _store_end(self, call: RemoteCall, ended: ToolCall, seconds: float | None) -> None:
        self._remember(call, ended)
        await self._recorder.commit([(call.task, ending_event(ended, seconds))], call.put(ended))

    def _remember(self, call: RemoteCall, row: ToolCall) -> None:
        key = call.request.key
        call.journal.tool_calls[key] = row
        self._journals.get(call.journal.index, call.journal).tool_calls[key] = row
        if row.state is not ToolCallState.INTENT:
            # Nobody else has to find out.
            self._begun.pop(call.key, None)
            self._admitted.pop(call.key, None)

    async def _settle(self, call: RemoteCall, unknown: ToolCall) -> ToolAnswer:
        """Go on with a call of unknown outcome by what a person has found out."""
        found = await self._decisions.what_happened(call, unknown)
        if found is None:
            return await self._begin(replace(call, before=unknown))
        ended = replace(unknown, state=ToolCallState.COMPLETED, output=storable(found), error="")
        await self._store_end(call, ended, None)
        return call.answer(ended)

    def _refuse(self, call: RemoteCall, reason: str, message: str) -> ToolAnswer:
        """Tell the model why there is no call. It is told the same when it is asked again, so nothing is kept."""
        row = call.unmade(reason, message)
        self._meter.count(call.journal, row, made=False)
        self._recorder.add(call.task, call.started(row))
        self._recorder.add(call.task, ending_event(row, None))
        return ToolAnswer(error=message)

    async def _fail_unmade(self, call: RemoteCall, reason: str, message: str) -> ToolAnswer:
        """Keep and tell why there is no call: later attempts are told the same."""
        row = call.unmade(reason, message)
        self._rules.discount(call.tool.name, *call.key)
        self._meter.count(call.journal, row, made=False)
        self._remember(call, row)
        events = [(call.task, call.started(row)), (call.task, ending_event(row, None))]
        await self._recorder.commit(events, call.put(row))
        return call.answer(row)

    def _tell_again(self, call: RemoteCall, row: ToolCall) -> None:
        started, ending = call.started(row), ending_event(row, None)
        started.replayed = ending.replayed = True
        self._recorder.add(call.task, started)
        self._recorder.add(call.task, ending)

    async def _cancel(self, call: RemoteCall, row: ToolCall) -> None:
        outcome = await self._executors.cancel(row.tool, row.call_id)
        event: Message
        if outcome.HasField("unknown") and not row.idempotent:
            ended = unknown_by(row, outcome)
            event = unknown_event(ended)
        else:
            ended = ended_by(row, outcome)
            if not outcome.HasField("result"):
                ended = replace(ended, state=ToolCallState.CANCELLED, reason=ended.reason or "TOOL_CANCELLED")
            event = ending_event(ended, None)
        self._count(call, ended, outcome, _seconds_since(row.intended_at))
        # Who has the execution by now, if it is another host, finds the intent.
        with contextlib.suppress(Fenced):
            await self._recorder.commit([(call.task, event)], call.put(ended))


def _seconds_since(moment: datetime | None) -> float | None:
    return None if moment is None else (utc_now() - moment).total_seconds()
