"""One claim on one execution: runs its tasks until they are done, or until something stops it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc
import structlog

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2
from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.ids import new_id
from services.orchestrator.domain import (
    Approval,
    ApprovalState,
    CrewSpec,
    ExecutionError,
    ExecutionState,
    OnCredentialExpiry,
    Process,
    TaskOutput,
    TaskRun,
    TaskState,
    Usage,
    to_document,
)
from services.orchestrator.events import new_event
from services.orchestrator.messages.executions import error_message, output_message, usage_message
from services.orchestrator.placeholders import interpolate
from services.orchestrator.worker.host.calls import CrewCalls, Stubs, TaskJournal
from services.orchestrator.worker.host.crew_process import CrewProcess, ForkServer, ForkServerLost
from services.orchestrator.worker.host.model_lookup import CrewFacts
from services.orchestrator.worker.host.peer_retry import patiently
from services.orchestrator.worker.host.principals import CredentialExpired, ExecutionPrincipal
from services.orchestrator.worker.host.recorder import Effect, Place, Recorder
from services.orchestrator.worker.host.run_store import Claim, Fenced, FencedWrite, RunStore
from services.orchestrator.worker.host.stop_reasons import Cancelled, CredentialNeeded, Failed, Lost, Stop
from services.orchestrator.worker.host.task_order import context_of, fill_in_models, models_of, startable
from services.orchestrator.worker.link.framing import Frame, RemoteError
from services.orchestrator.worker.link.host_end import CrewProcessLost
from services.orchestrator.worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

PLAN_INDEX = -1
_MANAGER_ROLE = "Crew Manager"
_REVOKE_SECONDS = 5.0
_FORK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RunContext:
    """What runs need of their host."""

    store: RunStore
    fork_server: ForkServer
    stubs: Stubs
    auth: "auth_service_pb2_grpc.AuthServiceAsyncStub"
    facts: CrewFacts
    settings: WorkerSettings
    default_model: str
    ready: Callable[[str], None]
    """Told an execution that waits for a worker."""
    stored: Callable[[str, int], None]
    """Told an execution and its newest sequence after each transaction."""
    prune: Callable[[str, str, int], None]
    """Told an execution, a model call that is over, and a sequence before its pieces."""


@dataclass(slots=True)
class _Task:
    """A task as this run knows it; the crew's plan is one too."""

    index: int
    name: str
    state: TaskState
    attempt: int
    output: TaskOutput | None
    approval: Approval | None = None
    """The newest one."""

    @property
    def place(self) -> Place:
        return Place(None if self.index == PLAN_INDEX else self.index, self.name, self.attempt)

    @property
    def refused(self) -> Approval | None:
        """What a person did not approve, if the task is to be done again for it."""
        return self.approval if self.approval and self.approval.state is ApprovalState.REFUSED else None


@dataclass(frozen=True, slots=True)
class _Crew:
    """The crew process, and what serves its calls."""

    process: CrewProcess
    calls: CrewCalls


class ExecutionRun:
    """Runs a claimed execution. `stop` may be called at any time, on the loop."""

    def __init__(self, claim: Claim, context: RunContext) -> None:
        self._context = context
        self._execution = claim.execution
        self._document = claim.spec
        self._spec: CrewSpec = fill_in_models(claim.spec, default=context.default_model, override=claim.execution.model)
        runs = {run.task_index: run for run in claim.tasks}
        self._tasks = [_task(runs[index], claim.answers.get(index)) for index in range(len(claim.spec.tasks))]
        self._planned = _task(runs[PLAN_INDEX], None) if PLAN_INDEX in runs else None
        self._usage = claim.execution.usage
        self._stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._recorder = Recorder(
            context.store,
            self._execution.id,
            self._execution.epoch,
            self._execution.last_sequence,
            interval=context.settings.event_interval_seconds,
            stored=lambda sequence: context.stored(self._execution.id, sequence),
            failed=self._stop_on,
        )
        self._principal = ExecutionPrincipal(context.auth, self._execution.id, self._execution.grant_id)
        self._crew: _Crew | None = None
        self._opening = asyncio.Lock()

    def stop(self, reason: Stop) -> None:
        """Stop the run; the first reason counts."""
        if not self._stopped.done():
            self._stopped.set_result(reason)

    async def run(self) -> None:
        """Run until the execution has ended or is parked.

        Raises:
            Lost: this host has no say over it any more, or (LeaseLost) cannot be sure of it.
        """
        work = asyncio.create_task(self._work())
        deadline = self._arm_deadline()
        try:
            waited: set[asyncio.Future[Any]] = {work, self._stopped}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            await self._halt(work)
            reason = self._stopped.result() if self._stopped.done() else self._reason_of(work.exception())
            if reason is not None:
                await self._stop_for(reason)
        except Fenced as error:
            raise Lost from error
        finally:
            if deadline is not None:
                deadline.cancel()
            await self._halt(work)
            await self._recorder.close()

    async def _halt(self, work: asyncio.Task[None]) -> None:
        finished = work.done() and not work.cancelled() and work.exception() is None
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        crew, self._crew = self._crew, None
        if crew is not None:
            await (crew.process.close() if finished else crew.process.kill())

    def _arm_deadline(self) -> asyncio.TimerHandle | None:
        ends = self._execution.deadline_at
        if ends is None:
            return None
        told = (
            f"the execution took longer than its timeout of {self._execution.timeout:g} s; start it with a longer one, "
            "or resume it to keep what is finished"
        )
        late = Failed(ExecutionError("EXECUTION_TIMEOUT", told))
        seconds = max(0.0, (ends - utc_now()).total_seconds())
        return asyncio.get_running_loop().call_later(seconds, self.stop, late)

    # ---- stopping

    def _stop_on(self, error: BaseException) -> None:
        """Stop for what went wrong while a call was served or an event written."""
        reason = self._reason_of(error)
        if reason is not None:
            self.stop(reason)

    def _reason_of(self, error: BaseException | None) -> Stop | None:
        match error:
            case None:
                return None
            case Stop():
                return error
            case Fenced():
                return Lost()
            case CredentialExpired():
                if self._execution.on_credential_expiry is OnCredentialExpiry.FAIL:
                    return Failed(ExecutionError("CREDENTIAL_EXPIRED", str(error)))
                return CredentialNeeded()
            case CoxswainError():
                return Failed(ExecutionError(error.reason, error.message))
            case _:
                logger.error("run_failed", execution_id=self._execution.id, exc_info=error)
                return Failed(ExecutionError("INTERNAL", "the worker failed; its log holds the cause"))

    async def _stop_for(self, reason: Stop) -> None:
        match reason:
            case Cancelled():
                await self._end(ExecutionState.CANCELLED, None, [(Place(), execution_pb2.ExecutionCancelled())])
            case Failed(error=error, task_index=index):
                await self._fail(error, index)
            case CredentialNeeded():
                await self._park(ExecutionState.WAITING_FOR_CREDENTIAL)
                await self._go_on_if_renewed()
            case _:
                raise reason

    async def _fail(self, error: ExecutionError, index: int | None) -> None:
        told = error_message(error)
        events: list[tuple[Place, Any]] = [(Place(), execution_pb2.ExecutionFailed(error=told))]
        effects: list[Effect] = []
        if index is not None:
            failed = self._tasks[index]
            events.insert(0, (failed.place, execution_pb2.TaskFailed(error=told)))
            effects.append(lambda write: write.fail_task(failed.index, error, utc_now()))
        await self._end(ExecutionState.FAILED, error, events, *effects)

    async def _end(
        self,
        state: ExecutionState,
        error: ExecutionError | None,
        events: list[tuple[Place, Any]],
        *effects: Effect,
    ) -> None:
        """End the execution before its time."""
        reason = error.reason if error else ""
        await self._recorder.commit(events, *effects, lambda write: write.end(state, error, utc_now()))
        logger.info("execution_ended", execution_id=self._execution.id, state=state, reason=reason)
        await self._revoke()

    async def _revoke(self) -> None:
        """Let the execution act for nobody any more; what fails of that, the API's housekeeping makes up for."""
        request = delegation_pb2.RevokeDelegationRequest(execution_id=self._execution.id)
        try:
            await self._context.auth.RevokeDelegation(request, timeout=_REVOKE_SECONDS)
            await self._context.store.grant_closed(self._execution.id)
        except (grpc.RpcError, CoxswainError) as error:
            logger.info("grant_not_revoked", execution_id=self._execution.id, error=type(error).__name__)

    async def _park(self, state: ExecutionState) -> bool:
        """Let the execution rest, or end it if that was asked for; False when a person has answered just now."""
        parked = cancelled = False

        async def park(write: FencedWrite) -> None:
            nonlocal parked, cancelled
            # The execution is locked: who asks for its end after this finds it parked, and ends it.
            cancelled = await write.cancel_requested()
            parked = not cancelled and (state is ExecutionState.WAITING_FOR_CREDENTIAL or await write.open_approvals())
            if parked:
                told = execution_pb2.ExecutionParked(
                    state=execution_pb2.ExecutionState.Value(f"EXECUTION_STATE_{state}")
                )
                await write.append([new_event(told)])
                await write.park(state)

        await self._recorder.commit([], park)
        if cancelled:
            await self._stop_for(Cancelled())
        return parked or cancelled

    async def _go_on_if_renewed(self) -> None:
        """Wake the parked execution if its user renewed the credential while it was not parked yet."""
        store, execution = self._context.store, self._execution
        if await self._principal.renewed() and await self._read(lambda: store.wake(execution.id, execution.epoch)):
            self._context.ready(execution.id)

    # ---- working

    async def _work(self) -> None:
        running: set[asyncio.Task[bool]] = set()
        try:
            await self._take_answers()
            plans = await self._plans()
            while True:
                for index in startable(self._spec, [task.state for task in self._tasks]):
                    task = self._tasks[index]
                    task.state = TaskState.RUNNING
                    running.add(asyncio.create_task(self._run_task(task, plans.get(str(index), ""))))
                if running:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    ended = [finished.result() for finished in done]
                    if any(ended):
                        return
                elif self._all_done():
                    await self._succeed([])
                    return
                elif await self._park(ExecutionState.WAITING_FOR_APPROVAL):
                    return
                else:
                    await self._read_answers()
                    await self._take_answers()
        finally:
            for unfinished in running:
                unfinished.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _all_done(self) -> bool:
        return all(task.state is TaskState.SUCCEEDED for task in self._tasks)

    async def _succeed(self, events: list[tuple[Place, Any]], *effects: Effect) -> None:
        result = self._tasks[-1].output
        succeeded = execution_pb2.ExecutionSucceeded(
            result=None if result is None else output_message(result), usage=usage_message(self._usage)
        )
        await self._recorder.commit(
            [*events, (Place(), succeeded)], *effects, lambda write: write.succeed(result, utc_now())
        )
        logger.info("execution_ended", execution_id=self._execution.id, state=ExecutionState.SUCCEEDED)
        await self._revoke()

    async def _read_answers(self) -> None:
        answers = await self._read(lambda: self._context.store.answers(self._execution.id))
        for index, approval in answers.items():
            self._tasks[index].approval = approval

    async def _take_answers(self) -> None:
        """Go on with tasks whose result a person has approved or refused."""
        for task in self._tasks:
            if task.state is not TaskState.WAITING_FOR_APPROVAL:
                continue
            if task.approval is not None and task.approval.state is ApprovalState.APPROVED:
                await self._complete(task, task.approval.output)
            elif task.approval is None or task.approval.state is ApprovalState.REFUSED:
                task.state = TaskState.PENDING

    async def _complete(self, task: _Task, output: TaskOutput) -> bool:
        """Store a task's result, and the execution's if it was the last one; tell whether it was."""
        task.state, task.output = TaskState.SUCCEEDED, output
        completed = (task.place, execution_pb2.TaskCompleted(output=output_message(output)))

        async def finish(write: FencedWrite) -> None:
            await write.finish_task(task.index, output, utc_now())

        if self._all_done():
            await self._succeed([completed], finish)
            return True
        await self._recorder.commit([completed], finish)
        return False

    async def _plans(self) -> dict[str, str]:
        """Return what the plan adds to each task's description, by the task's place; make the plan if there is none."""
        if not self._spec.planning or self._all_done():
            return {}
        if self._planned is None:
            self._planned = _Task(PLAN_INDEX, "", TaskState.PENDING, 0, None)
        plan = self._planned
        if plan.state is not TaskState.SUCCEEDED or plan.output is None:
            made = await self._in_crew(plan, "plan", {})
            output = TaskOutput(text="", structured=made)

            async def finish(write: FencedWrite) -> None:
                await write.finish_task(PLAN_INDEX, output, utc_now())

            await self._recorder.commit([], finish)
            plan.state, plan.output = TaskState.SUCCEEDED, output
        assert plan.output is not None
        plans: dict[str, str] = (plan.output.structured or {}).get("plans", {})
        return plans

    async def _run_task(self, task: _Task, plan: str) -> bool:
        """Do a task; tell whether the execution has ended with it."""
        earlier = [self._tasks[index] for index in context_of(self._spec, task.index)]
        params: Frame = {
            "task": task.index,
            "context": [
                {"name": done.name, "text": done.output.text, "agent_role": done.output.agent_role}
                for done in earlier
                if done.output is not None
            ],
            "plan": plan,
        }
        if task.refused is not None:
            params["revision"] = {"previous": task.refused.output.text, "feedback": task.refused.feedback}
        told = await self._in_crew(task, "task", params)
        output = TaskOutput(told["text"], told["structured"], told["agent_role"])
        if self._spec.tasks[task.index].human_approval:
            await self._ask_for_approval(task, output)
            return False
        return await self._complete(task, output)

    async def _ask_for_approval(self, task: _Task, output: TaskOutput) -> None:
        approval = Approval(
            id=new_id(),
            execution_id=self._execution.id,
            group_id=self._execution.group_id,
            task_index=task.index,
            task_name=task.name,
            attempt=task.attempt,
            state=ApprovalState.PENDING,
            output=output,
            requested_at=utc_now(),
        )
        requested = execution_pb2.ApprovalRequested(approval_id=approval.id, output=output_message(output))
        await self._recorder.commit([(task.place, requested)], lambda write: write.ask_for_approval(approval))
        task.state, task.approval = TaskState.WAITING_FOR_APPROVAL, approval

    # ---- the crew process

    async def _in_crew(self, task: _Task, method: str, params: Frame) -> Frame:
        """Have the crew process do something for a task, again if the process dies of it.

        Raises:
            Failed: it cannot be done.
        """
        for _ in range(self._context.settings.crew_process_attempts):
            journal = await self._begin(task)
            crew: _Crew | None = None
            try:
                crew = await self._open_crew()
                crew.calls.begin_task(task.index, journal)
                result: Frame = await crew.process.call(method, params | {"attempt": task.attempt})
                return result
            except RemoteError as error:
                failure = ExecutionError(error.reason, error.message, task.name)
                raise Failed(failure, None if task.index == PLAN_INDEX else task.index) from error
            except CrewProcessLost:
                logger.warning("crew_process_lost", execution_id=self._execution.id, task=task.index)
                await self._discard_crew(crew)
            except ForkServerLost:
                await asyncio.sleep(_FORK_AGAIN_SECONDS)
        told = "the process that ran the crew died again and again; the memory it may use might be too small"
        raise Failed(ExecutionError("TASK_FAILED", told, task.name), None if task.index == PLAN_INDEX else task.index)

    async def _begin(self, task: _Task) -> TaskJournal:
        """Begin an attempt at a task with what earlier ones have learnt."""
        store, execution_id = self._context.store, self._execution.id
        task.attempt += 1
        attempt = task.attempt
        journal = TaskJournal(task.place, salt=task.refused.id if task.refused else "")
        if task.index == PLAN_INDEX:
            await self._recorder.commit([], lambda write: write.start_plan(PLAN_INDEX, attempt, utc_now()))
        else:
            started = execution_pb2.TaskStarted(agent_role=self._role(task.index))
            await self._recorder.commit(
                [(task.place, started)], lambda write: write.start_task(task.index, attempt, utc_now())
            )
        if attempt > 1:
            # Only now is everything stored that the attempt before has learnt.
            journal.answers = await self._read(lambda: store.answers_kept(execution_id, task.index))
            journal.tool_calls = await self._read(lambda: store.tool_calls(execution_id, task.index))
        return journal

    async def _read(self, read: Callable[[], Any]) -> Any:
        return await patiently(read, self._context.settings.peer_patience_seconds)

    def _role(self, index: int) -> str:
        name = self._spec.tasks[index].agent
        if self._spec.process is Process.HIERARCHICAL:
            name = self._spec.manager_agent
        roles = {agent.name: agent.role for agent in self._spec.agents}
        try:
            return interpolate(roles.get(name, _MANAGER_ROLE), self._execution.inputs)
        except KeyError:
            return roles[name]  # the crew process tells what is missing

    async def _open_crew(self) -> _Crew:
        async with self._opening:
            if self._crew is None:
                self._crew = await self._fork()
            return self._crew

    async def _discard_crew(self, crew: _Crew | None) -> None:
        if crew is not None and self._crew is crew:
            self._crew = None
            await crew.process.kill()

    async def _fork(self) -> _Crew:
        context, execution, spec = self._context, self._execution, self._spec
        models = await context.facts.models(models_of(spec), execution.group_id, self._principal)
        # By the crew as it was written: neither a model for one execution nor a new default parts it from its memories.
        memory_id = await context.facts.memory_id(self._document, self._principal) if spec.memory.enabled else ""
        calls = CrewCalls(
            context.stubs,
            self._recorder,
            self._principal,
            memory_id=memory_id,
            embedding_model=spec.memory.embedding_model,
            patience=context.settings.peer_patience_seconds,
            call_timeout=context.settings.model_call_seconds,
            answered=self._count,
            prune=lambda call_id, before: context.prune(execution.id, call_id, before),
        )
        process = await context.fork_server.fork(calls.serve, self._stop_on)
        try:
            await process.call(
                "open",
                {
                    "execution_id": execution.id,
                    "spec": to_document(spec),
                    "inputs": dict(execution.inputs),
                    "models": models,
                },
            )
        except BaseException:
            await process.kill()
            raise
        return _Crew(process, calls)

    def _count(self, used: Usage) -> None:
        self._usage = replace(
            self._usage,
            llm_calls=self._usage.llm_calls + used.llm_calls,
            input_tokens=self._usage.input_tokens + used.input_tokens,
            output_tokens=self._usage.output_tokens + used.output_tokens,
            cost=self._usage.cost + used.cost,
        )


def _task(run: TaskRun, approval: Approval | None) -> _Task:
    # What was at work when the last claim ended starts again.
    state = TaskState.PENDING if run.state is TaskState.RUNNING else run.state
    return _Task(run.task_index, run.name, state, run.attempt, run.output, approval)
