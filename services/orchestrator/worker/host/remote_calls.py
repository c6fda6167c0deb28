"""Calls of tools that the gateway or the host makes: each at most once, unless the tool may be called twice.

A call is known by its task and its key, which is the same on every attempt (`worker/crew/occurrences.py`), and has a
row in the journal. An INTENT is stored before the gateway is asked; what has come of the call is stored with its event.
Who finds an INTENT asks the gateway under the same id. A call of which nobody knows whether it took effect becomes a
question to a person, never a failure: a model that is told of a failure calls again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from google.protobuf.message import Message

from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.worker.link_pb2 import CallTool, ToolAnswer
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.grpc.json_values import to_struct
from services.orchestrator.domain.execution import Execution
from services.orchestrator.domain.question import QuestionedCall, QuestionKind, QuestionState
from services.orchestrator.domain.tool import ResolvedTool, ToolCallState
from services.orchestrator.domain.tool_question import (
    OUTCOME_SCHEMA,
    Approval,
    Decision,
    approval_of,
    approval_schema,
    found_result,
)
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.tool_identity import source_of
from services.orchestrator.worker.host.agent_tools import AgentTools
from services.orchestrator.worker.host.call_listener import Listener
from services.orchestrator.worker.host.call_outcomes import (
    MOST_TOLD,
    call_id,
    cut_for_model,
    duration_of,
    ended_by,
    ended_by_person,
    ending_event,
    next_call_id,
    waits_for_person,
)
from services.orchestrator.worker.host.call_questions import CallQuestions
from services.orchestrator.worker.host.fenced_write import Fenced, FencedWrite
from services.orchestrator.worker.host.principals import CredentialExpired
from services.orchestrator.worker.host.recorder import Change, Recorder
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_executors import ToolExecutors
from services.orchestrator.worker.host.tool_gateway import LeftWaiting
from services.orchestrator.worker.host.tool_meter import ToolMeter
from services.orchestrator.worker.host.tool_rules import ToolRules
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.text import storable

_ATTEMPTS = 3
_PAUSES = Backoff(1.0, 10.0)
_Key = tuple[int, str]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that a crew process waits for."""

    journal: TaskJournal
    request: CallTool
    tool: ResolvedTool

    @property
    def source(self) -> str:
        return source_of(self.tool.name)

    @property
    def key(self) -> _Key:
        return self.journal.index, self.request.key


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
        on_failure: Callable[[BaseException], object],
    ) -> None:
        """`on_failure` gets what concerns the whole run: another host has the execution, its credential has expired."""
        self._execution = execution
        self._executors = executors
        self._recorder = recorder
        self._meter = meter
        self._questions = questions
        self._rules = rules
        self._on_failure = on_failure
        self._tools = AgentTools({}, [])
        self._journals: dict[int, TaskJournal] = {}
        """Those of the newest attempts, by the tasks' indices."""
        self._in_flight: dict[_Key, asyncio.Task[ToolAnswer]] = {}
        self._begun: dict[_Key, tuple[_Call, ToolCall]] = {}
        """Calls that the gateway makes now."""
        self._admitted: dict[_Key, float] = {}
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
            call = _Call(journal, request, self._tools.tools[request.tool])
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

    def _forget(self, key: _Key, ended: asyncio.Task[ToolAnswer]) -> None:
        self._in_flight.pop(key, None)
        self._begun.pop(key, None)
        self._admitted.pop(key, None)
        error = None if ended.cancelled() else ended.exception()
        # Perhaps nobody waits for it any more.
        if error is not None and not isinstance(error, TaskError | CoxswainError):
            self._on_failure(error)

    # ---- one call

    async def _make(self, call: _Call) -> ToolAnswer:
        known = call.journal.tool_calls.get(call.request.key)
        match known and known.state:
            case ToolCallState.COMPLETED | ToolCallState.FAILED if known is not None:
                self._tell_again(call, known)
                return self._answer(call, known)
            case ToolCallState.INTENT if known is not None:
                return await self._follow(call, known, begun_before=True)
            case ToolCallState.UNKNOWN if known is not None:
                return await self._settle(call, known)
            case _:
                return await self._begin(call)

    async def _begin(self, call: _Call) -> ToolAnswer:
        tool, arguments = call.tool, call.request.arguments_json
        refusal = await self._rules.refusal(tool, call.journal.index, call.request.key, arguments)
        if refusal is not None:
            return self._refuse(call, *refusal)
        self._rules.count(tool.name, call.journal.index, call.request.key)
        approval = await self._approval(call)
        if approval.decision is Decision.REFUSE:
            told = (
                f"a person refused this call: {approval.feedback}"
                if approval.feedback
                else "a person refused this call"
            )
            return await self._fail_unmade(call, "TOOL_REFUSED", told)
        if approval.decision is Decision.CALL_EDITED:
            arguments = approval.arguments
            refusal = await self._rules.refusal(tool, call.journal.index, call.request.key, arguments)
            if refusal is not None:
                return await self._fail_unmade(call, refusal[0], f"a person changed the arguments, but {refusal[1]}")
        self._meter.check(tool.cost, self._admitted.values())
        self._admitted[call.key] = tool.cost
        if not await self._executors.reachable(tool):
            return await self._fail_unmade(call, "TOOL_UNAVAILABLE", "tools cannot be reached now; try again later")
        first = call_id(self._execution.id, call.journal.index, call.request.key)
        return await self._follow(call, await self._intend(call, first, 0, arguments), begun_before=False)

    async def _intend(self, call: _Call, identity: str, round: int, arguments: str) -> ToolCall:  # noqa: A002 - its name everywhere
        tool = call.tool
        row = ToolCall(
            ToolCallState.INTENT,
            "",
            "",
            tool.name,
            identity,
            round,
            arguments,
            tool.hash,
            tool.idempotent,
            intended_at=utc_now(),
        )
        started = self._started(call, row)
        if tool.idempotent:
            self._recorder.add(call.journal.task, started, self._put(call, row))
        else:
            await self._recorder.commit([(call.journal.task, started)], self._put(call, row))
        self._remember(call, row)
        return row

    async def _follow(self, call: _Call, row: ToolCall, *, begun_before: bool) -> ToolAnswer:
        """Have the gateway make a call, or find out what has become of it."""
        self._begun[call.key] = call, row
        self._admitted[call.key] = call.tool.cost
        listener = Listener(self._recorder, self._questions, call.journal, self._about(call, row))
        begun = asyncio.get_running_loop().time()
        try:
            outcome = await self._outcome(call, row, listener, begun_before=begun_before)
        except LeftWaiting:
            raise waits_for_person() from None
        finally:
            listener.flush()
        return await self._end(call, row, outcome, asyncio.get_running_loop().time() - begun)

    async def _outcome(self, call: _Call, row: ToolCall, listener: Listener, *, begun_before: bool) -> pb.ToolOutcome:
        """Return what comes of a call, made again for a while if nothing was sent since its source is busy or away."""
        request = self._request(call, row, begun_before=begun_before)
        outcome = await self._executors.execute(call.tool, request, listener)
        for attempt in range(1, _ATTEMPTS):
            if not outcome.failure.temporary or outcome.failure.reason == "TOOL_TIMEOUT":
                break
            await asyncio.sleep(_PAUSES.pause(attempt))
            request = self._request(call, row, begun_before=False)
            outcome = await self._executors.execute(call.tool, request, listener)
        return outcome

    async def _end(self, call: _Call, row: ToolCall, outcome: pb.ToolOutcome, seconds: float) -> ToolAnswer:
        if outcome.HasField("failure") and outcome.failure.reason == "CREDENTIAL_EXPIRED":
            # Without effect: the next run makes it with the renewed one.
            raise CredentialExpired(outcome.failure.message)
        if outcome.HasField("failure") and outcome.failure.reason == "TOOL_CANCELLED":
            # An execution that this one continues has taken it back, for good under that id.
            return await self._call_again(call, row)
        if outcome.HasField("unknown") and not row.idempotent:
            await self._ask_what_happened(call, row, outcome.unknown.message, seconds)
            raise waits_for_person()
        ended = ended_by(row, outcome)
        self._meter.count(call.journal, ended, made=outcome.HasField("result"), cost=call.tool.cost, seconds=seconds)
        if ended.output:
            ended = replace(ended, output=f"{self._said_by_person(call)}{ended.output}")
        await self._store_end(call, ended, seconds)
        return self._answer(call, ended)

    async def _store_end(self, call: _Call, ended: ToolCall, seconds: float | None) -> None:
        self._remember(call, ended)
        await self._recorder.commit([(call.journal.task, ending_event(ended, seconds))], self._put(call, ended))

    def _remember(self, call: _Call, row: ToolCall) -> None:
        key = call.request.key
        call.journal.tool_calls[key] = row
        self._journals.get(call.journal.index, call.journal).tool_calls[key] = row
        if row.state is not ToolCallState.INTENT:
            # Nobody else has to find out.
            self._begun.pop(call.key, None)
            self._admitted.pop(call.key, None)

    # ---- what people are asked

    async def _approval(self, call: _Call) -> Approval:
        if not await self._rules.needs_approval(call.tool, call.request.arguments_json):
            return Approval(Decision.CALL)
        index, key = call.journal.index, call.request.key
        question = self._questions.find(QuestionKind.TOOL_APPROVAL, index, key)
        if question is not None and (approval := approval_of(question)) is not None:
            return approval
        if question is None and self._questions.remembered(call.tool.name):
            return Approval(Decision.CALL)
        if question is None:
            row = ToolCall(
                ToolCallState.INTENT,
                "",
                "",
                call.tool.name,
                call_id(self._execution.id, index, key),
                arguments=call.request.arguments_json,
            )
            await self._questions.ask(
                call.journal,
                QuestionKind.TOOL_APPROVAL,
                self._about(call, row),
                f'May the tool "{call.tool.name}" be called with these arguments?',
                approval_schema(call.tool.arguments_schema),
            )
        raise waits_for_person()

    async def _ask_what_happened(self, call: _Call, row: ToolCall, observation: str, seconds: float) -> None:
        unknown = replace(row, state=ToolCallState.UNKNOWN, error=storable(observation)[:MOST_TOLD])
        event = execution_pb2.ToolOutcomeUnknown(call_id=row.call_id, tool_name=row.tool, message=unknown.error)
        self._meter.count(call.journal, unknown, made=True, cost=call.tool.cost, seconds=seconds)
        self._remember(call, unknown)
        await self._ask_person(call, unknown, [(call.journal.task, event)], self._put(call, unknown))

    async def _ask_person(
        self, call: _Call, unknown: ToolCall, events: list[tuple[object, Message]], *changes: Change
    ) -> None:
        await self._questions.ask(
            call.journal,
            QuestionKind.OUTCOME_UNKNOWN,
            replace(self._about(call, unknown), observation=unknown.error, begun_at=unknown.intended_at),
            f'Has this call of "{unknown.tool}" taken effect? It is not known, and it must not be made twice.',
            OUTCOME_SCHEMA,
            events,  # type: ignore[arg-type]
            *changes,
        )

    async def _settle(self, call: _Call, known: ToolCall) -> ToolAnswer:
        """Go on with a call of unknown outcome by what a person has found out."""
        question = self._questions.find(
            QuestionKind.OUTCOME_UNKNOWN, call.journal.index, call.request.key, round=known.round
        )
        if question is None:
            # It came along from an execution that this one continues.
            await self._ask_person(call, known, [])
            raise waits_for_person()
        if question.answer is None or question.state is QuestionState.CANCELLED:
            raise waits_for_person()
        if question.state is QuestionState.DECLINED:
            raise ended_by_person(known, question)
        found = found_result(question.answer)
        if found is None:
            return await self._call_again(call, known)
        ended = replace(known, state=ToolCallState.COMPLETED, output=storable(found), error="")
        await self._store_end(call, ended, None)
        return self._answer(call, ended)

    async def _call_again(self, call: _Call, known: ToolCall) -> ToolAnswer:
        """Make a call that had no effect."""
        identity = next_call_id(known.call_id, known.round + 1)
        row = await self._intend(call, identity, known.round + 1, known.arguments)
        return await self._follow(call, row, begun_before=False)

    # ---- what is told

    def _refuse(self, call: _Call, reason: str, message: str) -> ToolAnswer:
        """Tell the model why there is no call. It is told the same when it is asked again, so nothing is kept."""
        row = ToolCall(
            ToolCallState.FAILED,
            "",
            message,
            call.tool.name,
            call_id(self._execution.id, call.journal.index, call.request.key),
            arguments=call.request.arguments_json,
            reason=reason,
        )
        self._meter.count(call.journal, row, made=False)
        self._recorder.add(call.journal.task, self._started(call, row))
        self._recorder.add(call.journal.task, ending_event(row, None))
        return ToolAnswer(error=message)

    async def _fail_unmade(self, call: _Call, reason: str, message: str) -> ToolAnswer:
        """Keep and tell why there is no call: later attempts are told the same."""
        row = ToolCall(
            ToolCallState.FAILED,
            "",
            storable(message),
            call.tool.name,
            call_id(self._execution.id, call.journal.index, call.request.key),
            arguments=call.request.arguments_json,
            tool_hash=call.tool.hash,
            idempotent=call.tool.idempotent,
            reason=reason,
        )
        self._rules.discount(call.tool.name, call.journal.index, call.request.key)
        self._meter.count(call.journal, row, made=False)
        self._remember(call, row)
        task = call.journal.task
        await self._recorder.commit(
            [(task, self._started(call, row)), (task, ending_event(row, None))], self._put(call, row)
        )
        return self._answer(call, row)

    def _tell_again(self, call: _Call, row: ToolCall) -> None:
        started, ending = self._started(call, row), ending_event(row, None)
        started.replayed = ending.replayed = True
        self._recorder.add(call.journal.task, started)
        self._recorder.add(call.journal.task, ending)

    def _answer(self, call: _Call, row: ToolCall) -> ToolAnswer:
        if row.state is ToolCallState.FAILED:
            return ToolAnswer(
                error=cut_for_model(row.error or "it failed without saying why", call.tool.result_limit, row.call_id)
            )
        return ToolAnswer(output=cut_for_model(row.output, call.tool.result_limit, row.call_id))

    def _said_by_person(self, call: _Call) -> str:
        """Return what the model is told of the approval of a call."""
        question = self._questions.find(QuestionKind.TOOL_APPROVAL, call.journal.index, call.request.key)
        approval = None if question is None else approval_of(question)
        if approval is None:
            return ""
        said = f" and said: {storable(approval.feedback)}" if approval.feedback else ""
        if approval.decision is Decision.CALL_EDITED:
            return f"[A person changed the arguments of this call to {approval.arguments}{said}]\n"
        return f"[A person approved this call{said}]\n" if said else ""

    def _started(self, call: _Call, row: ToolCall) -> execution_pb2.ToolCallStarted:
        return execution_pb2.ToolCallStarted(
            call_id=row.call_id,
            tool_name=row.tool,
            arguments_json=row.arguments[:MOST_TOLD],
            idempotent=call.tool.idempotent,
            source=call.source,
        )

    def _about(self, call: _Call, row: ToolCall) -> QuestionedCall:
        return QuestionedCall(
            key=call.request.key,
            call_id=row.call_id,
            round=row.round,
            tool=row.tool,
            source=call.source,
            arguments=row.arguments,
            agent_role=call.request.agent_role,
            agent_text=call.request.agent_text,
        )

    def _put(self, call: _Call, row: ToolCall) -> Change:
        async def put(write: FencedWrite) -> None:
            await write.put_tool_call(call.journal.index, call.request.key, row)

        return put

    # ---- what the gateway is asked

    def _request(self, call: _Call, row: ToolCall, *, begun_before: bool) -> pb.ExecuteToolCallRequest:
        tool = call.tool
        return pb.ExecuteToolCallRequest(
            call_id=row.call_id,
            execution_id=self._execution.id,
            tool=tool.name,
            tool_hash=row.tool_hash,
            arguments_json=row.arguments,
            config=to_struct(tool.config),
            labels=self._execution.labels,
            idempotent=row.idempotent,
            timeout=duration_of(tool.timeout),
            max_timeout=duration_of(tool.max_timeout),
            begun_before=begun_before,
            grant_id=self._execution.grant_id,
        )

    async def _cancel(self, call: _Call, row: ToolCall) -> None:
        outcome = await self._executors.cancel(row.tool, row.call_id)
        if outcome.HasField("unknown") and not row.idempotent:
            unknown = replace(row, state=ToolCallState.UNKNOWN, error=storable(outcome.unknown.message)[:MOST_TOLD])
            event: Message = execution_pb2.ToolOutcomeUnknown(
                call_id=row.call_id, tool_name=row.tool, message=unknown.error
            )
            ended, made = unknown, True
        else:
            ended, made = ended_by(row, outcome), outcome.HasField("result")
            if not made:
                ended = replace(ended, state=ToolCallState.CANCELLED, reason=ended.reason or "TOOL_CANCELLED")
            event = ending_event(ended, None)
        self._meter.count(call.journal, ended, made=made, cost=call.tool.cost, seconds=_seconds_since(row.intended_at))
        try:
            await self._recorder.commit([(call.journal.task, event)], self._put(call, ended))
        except Fenced:
            # Whoever has the execution now finds the intent.
            return


def _seconds_since(moment: datetime | None) -> float | None:
    return None if moment is None else (utc_now() - moment).total_seconds()
