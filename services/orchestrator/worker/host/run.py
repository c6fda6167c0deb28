"""One claim on one execution: runs its tasks until they are done, or until something stops it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from coxswain.orchestrator.worker.link_pb2 import EarlierTask, EvaluateCondition, RunTask
from services.common.clock import utc_now
from services.orchestrator.domain.execution import PLAN_INDEX, ExecutionError, TaskOutput, TaskState
from services.orchestrator.domain.task_order import context_of, startable
from services.orchestrator.messages.executions import output_to_proto
from services.orchestrator.worker.host.completion import Completion
from services.orchestrator.worker.host.crew_opener import CrewOpener
from services.orchestrator.worker.host.crew_session import CrewSession
from services.orchestrator.worker.host.execution_files import ExecutionFiles
from services.orchestrator.worker.host.fenced_write import Fenced, FencedWrite
from services.orchestrator.worker.host.parking import Parking
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.questions import Questions
from services.orchestrator.worker.host.recorder import Recorder
from services.orchestrator.worker.host.run_context import RunContext
from services.orchestrator.worker.host.run_state import RunState, TaskProgress
from services.orchestrator.worker.host.run_store import Claim
from services.orchestrator.worker.host.stop_signal import (
    Cancelled,
    CredentialNeeded,
    Failed,
    Lost,
    ModelsAway,
    Stop,
    StopSignal,
    TaskWaits,
)


class ExecutionRun:
    """Runs a claimed execution. `stop` may be called at any time, on the loop."""

    def __init__(self, claim: Claim, context: RunContext, on_rest: Callable[[], None]) -> None:
        """`on_rest` is told as soon as it is stored that the execution has ended or is parked, and its crew process is
        gone.
        """
        execution = claim.execution
        self._state = RunState(claim, context.default_model)
        self._signal = StopSignal(execution)
        self._recorder = Recorder(
            context.store,
            execution,
            interval=context.settings.event_interval_seconds,
            hints=context.hints,
            pruner=context.pruner,
            on_failure=self._signal.fail,
        )
        principal = ExecutionPrincipal(context.auth, execution.id, execution.grant_id)
        files = ExecutionFiles(
            context.store,
            execution,
            self._recorder,
            limits=context.artifact_limits,
            retry_seconds=context.settings.peer_retry_seconds,
            limits_of_group=principal.limits,
        )
        opener = CrewOpener(context, self._state, self._recorder, principal, self._signal, files)
        self._crew = CrewSession(context, self._state, self._recorder, opener)
        self._on_rest = on_rest
        self._completion = Completion(context, self._state, self._recorder, files, self._crew, self._rest)
        self._parking = Parking(context, self._state, self._recorder, principal, self._completion, self._rest)
        self._questions = Questions(context, self._state, self._recorder, self._crew, self._completion)

    def stop(self, reason: Stop) -> None:
        """Stop the run; the first reason counts."""
        self._signal.stop(reason)

    async def run(self) -> None:
        """Run until the execution has ended or is parked.

        Raises:
            Lost: this host does not have the execution any more, or (LeaseLost) cannot be sure that it has.
        """
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(self._signal.wait())
        deadline = self._arm_deadline()
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await self._halt(work)
            if self._signal.reason is None and (error := work.exception()) is not None:
                self._signal.fail(error)
            if self._signal.reason is not None:
                await self._stop_for(self._signal.reason)
        except Fenced as error:
            raise Lost from error
        finally:
            if deadline is not None:
                deadline.cancel()
            stopping.cancel()
            await self._halt(work)
            await self._crew.close()
            await self._recorder.close()

    async def _rest(self) -> None:
        # A host has memory for as many crew processes as it has slots.
        await self._crew.end(finished=True)
        self._on_rest()

    async def _halt(self, work: asyncio.Task[None]) -> None:
        finished = work.done() and not work.cancelled() and work.exception() is None
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await self._crew.end(finished=finished)

    def _arm_deadline(self) -> asyncio.TimerHandle | None:
        execution = self._state.execution
        if execution.deadline_at is None:
            return None
        late = Failed(
            ExecutionError(
                "EXECUTION_TIMEOUT",
                f"the execution took longer than its timeout of {execution.timeout:g} s; resume it with a longer "
                "one: what is finished is kept",
            )
        )
        seconds = max(0.0, (execution.deadline_at - utc_now()).total_seconds())
        return asyncio.get_running_loop().call_later(seconds, self.stop, late)

    async def _stop_for(self, reason: Stop) -> None:
        match reason:
            case Cancelled():
                await self._crew.cancel_calls()
                await self._completion.cancel()
            case Failed(error=error, task_index=index):
                await self._crew.cancel_calls()
                await self._completion.fail(error, index)
            case CredentialNeeded():
                await self._parking.wait_for_credential()
            case ModelsAway(wake_at=wake_at):
                await self._parking.wait_for_models(wake_at)
            case _:
                raise reason

    # ---- working

    async def _work(self) -> None:
        if self._signal.reason is not None:
            return  # it was stopped before it began
        running: set[asyncio.Task[bool]] = set()
        tasks = self._state.tasks
        try:
            if await self._questions.apply():
                return
            plans = await self._plans()
            while True:
                for index in startable(self._state.spec, [task.state for task in tasks]):
                    tasks[index].state = TaskState.RUNNING
                    running.add(asyncio.create_task(self._run_task(tasks[index], plans.get(str(index), ""))))
                if running:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    ended = [finished.result() for finished in done]
                    if any(ended):
                        return
                elif self._state.all_done:
                    await self._completion.succeed([])
                    return
                elif await self._parking.wait_for_answer():
                    return
                else:
                    await self._questions.read()
                    if await self._questions.apply():
                        return
        finally:
            for unfinished in running:
                unfinished.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _plans(self) -> dict[str, str]:
        """Return what the plan adds to each task's description, by the task's index; make the plan if there is none."""
        if not self._state.spec.planning or self._state.all_done:
            return {}
        plan = self._state.plan
        if plan.state is not TaskState.SUCCEEDED or plan.output is None:
            output = TaskOutput(text="", structured={"plans": await self._crew.make_plan(plan)})

            async def finish(write: FencedWrite) -> None:
                await write.tasks.finish(PLAN_INDEX, output, utc_now())

            await self._recorder.commit([], finish)
            plan.state, plan.output = TaskState.SUCCEEDED, output
        plans: dict[str, str] = (plan.output.structured or {}).get("plans", {})
        return plans

    def _ended_before(self, task: TaskProgress) -> EvaluateCondition:
        ended = [earlier for earlier in self._state.tasks[: task.index] if earlier.state.done]
        return EvaluateCondition(
            tasks=[
                EarlierTask(name=done.name, output=None if done.output is None else output_to_proto(done.output))
                for done in ended
            ]
        )

    async def _run_task(self, task: TaskProgress, plan: str) -> bool:
        """Do a task; return whether the execution has ended with it."""
        condition = self._state.spec.tasks[task.index].condition
        # One whose result a person has declined was to be done then.
        decided = not condition or task.declined is not None
        if not decided and not await self._crew.condition_holds(task, self._ended_before(task)):
            return await self._completion.skip(task, condition)
        earlier = [self._state.tasks[index] for index in context_of(self._state.spec, task.index)]
        request = RunTask(
            context=[
                EarlierTask(name=done.name, output=output_to_proto(replace(done.output, structured=None)))
                for done in earlier
                if done.output is not None
            ],
            plan=plan,
        )
        if task.declined is not None:
            request.revision.previous = task.declined.result.text if task.declined.result else ""
            request.revision.feedback = task.declined.answer.reason if task.declined.answer else ""
        try:
            output = await self._crew.run_task(task, request)
        except TaskWaits:
            await self._questions.wait(task)
            return False
        if self._state.spec.tasks[task.index].human_approval:
            await self._questions.ask_for_approval(task, output)
            return False
        return await self._completion.complete(task, output)


def lost_repeatedly(claim: Claim) -> Failed:
    """Return why an execution ends whose hosts have died again and again."""
    at_work = [task for task in claim.tasks if task.state is TaskState.RUNNING]
    (index, name) = (at_work[0].task_index, at_work[0].name) if len(at_work) == 1 else (PLAN_INDEX, "")
    where = f" in task {name}" if name else ""
    message = (
        f"{claim.execution.lost_hosts} worker hosts in a row died while they ran the execution{where}, and none "
        "finished a task; the crew may need more memory than a host has. Resume the execution to keep what is "
        "finished. The operator's limits are COXSWAIN_WORKER_MAX_LOST_HOSTS and COXSWAIN_WORKER_CREW_MEMORY_MIB"
    )
    error = ExecutionError("WORKER_LOST_REPEATEDLY", message, name)
    return Failed(error, None if index == PLAN_INDEX else index)
