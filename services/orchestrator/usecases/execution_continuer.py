"""Stores executions that continue others: resumed ones and forks."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey
from services.common.errors import FailedPrecondition, FieldViolation, NotFound
from services.common.grpc.enums import enum_to_proto
from services.common.identity.group_limits import GroupLimits
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.orchestrator.domain.artifact import Artifact, smaller_group_bytes
from services.orchestrator.domain.continuation import Continuation, TaskReuse
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.execution import (
    PLAN_INDEX,
    Execution,
    ExecutionState,
    TaskOutput,
    TaskRun,
    TaskState,
    Usage,
)
from services.orchestrator.domain.task_order import fill_in_models
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.repositories.artifacts import ArtifactRepository, read_group_bytes
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.journal import JournalRepository, read_effects
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.task_fingerprints import Fingerprint, plan_fingerprint, task_fingerprints
from services.orchestrator.usecases.artifact_reuse import ArtifactReuse, decide_artifacts
from services.orchestrator.usecases.crew_revisions import no_revision
from services.orchestrator.usecases.execution_starter import ExecutionStarter, existing_execution, pending_run
from services.orchestrator.usecases.task_reuse import Earlier, JournalReuse, decide_journals, decide_reuse, goes_on

_RESUMABLE = (ExecutionState.FAILED, ExecutionState.CANCELLED)


@dataclass(frozen=True, slots=True)
class _Ended:
    """An execution that is to be continued, with what of its crew matters."""

    execution: Execution
    spec: CrewSpec
    runs: Sequence[TaskRun]
    declined: frozenset[int]
    """Indices of tasks whose results a person has declined."""
    files: Sequence[Artifact]
    effects: frozenset[str]
    """Ids of its calls of tools that must not be called twice."""
    revision: int
    """The one to continue with, whose document is `next_spec`."""
    next_spec: CrewSpec
    next_pins: Mapping[str, str] | None
    """The tools that `next_spec` was stored with."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of the tasks."""

    reuse: Sequence[TaskReuse]
    journals: JournalReuse
    earlier: Mapping[str, Earlier]
    crew_plan: TaskRun | None
    """The finished plan of the crew, if it still holds."""


class ExecutionContinuer:
    """Makes new executions of ended ones. What has been paid for and still holds goes along."""

    def __init__(
        self, database: Database, starter: ExecutionStarter, *, default_model: str, artifact_group_bytes: int = 0
    ) -> None:
        """`artifact_group_bytes` bounds the files of a group; 0 means no limit."""
        self._artifact_group_bytes = artifact_group_bytes
        self._database = database
        self._starter = starter
        self._default_model = default_model

    async def continue_execution(
        self, principal: Principal, wanted: Continuation, request: RequestKey | None
    ) -> Execution:
        """Store an execution that continues an ended one; a repeated `request` returns the first one's.

        Raises:
            NotFound: the group does not have this execution, or its crew not that revision.
            FailedPrecondition: EXECUTION_STATE, it cannot be continued in this way; NOTHING_TO_RUN.
            InvalidArgument: the crew cannot run with these changes; one violation for each fault.
            ResourceExhausted: ARTIFACT_LIMIT_REACHED, or QUOTA_EXCEEDED: the group has as many open ones as it may.
            AlreadyExists: the request_id was used with another body.
        """
        repeated = await self._starter.find_repeated(principal, request)
        if repeated is not None:
            return repeated
        ended = await self._read(principal, wanted)
        execution = _continued(ended, wanted, principal)
        await self._starter.refuse_faults(
            principal.group_id,
            ended.next_spec,
            execution.inputs,
            execution.model,
            execution.limits,
            found=_task_faults(ended.next_spec, wanted.from_task),
            pins=ended.next_pins,
        )
        # A document and its inputs may be megabytes, and conditions are parsed.
        plan = await asyncio.to_thread(self._plan, ended, execution, wanted)
        if ended.execution.state is ExecutionState.SUCCEEDED and set(plan.reuse) == {TaskReuse.COPIED}:
            raise FailedPrecondition(
                "every result would be copied: nothing that one depends on has changed; give another model, inputs or "
                "crew_revision, or name the task to begin with in from_task",
                reason="NOTHING_TO_RUN",
                metadata={"execution_id": ended.execution.id},
            )

        files = await self._files(ended, execution, plan, principal.limits)

        async def take_over(connection: AsyncConnection, stored: Execution) -> None:
            # It must not be deleted before its journal is copied.
            if await ExecutionRepository(connection).lock(ended.execution.id, principal.group_id) is None:
                raise NotFound.of("execution", ended.execution.id)
            await JournalRepository(connection, stored.id).take_over(
                ended.execution.id,
                answers=plan.journals.answers,
                tools=plan.journals.tools,
                effects=plan.journals.effects,
            )
            await files.store(connection, stored.id)
            if not wanted.fork:
                await A2ATaskRepository(connection).resume(ended.execution.id, stored)

        tasks = _tasks(execution.id, ended.next_spec, plan)
        changed = await self._starter.changed_tool_events(principal.group_id, ended.next_spec, ended.next_pins)
        events = [_continued_event(ended, plan), *changed]
        return await self._starter.queue(execution, tasks, request, take_over, events, limits=principal.limits)

    async def _files(self, ended: _Ended, execution: Execution, plan: _Plan, limits: GroupLimits) -> ArtifactReuse:
        """Return the files of tasks that are copied, and of those that go on with what their tools have done.

        What has been done in the world for a task that starts over is told to it again, and so its files stay as well.
        """
        indices: dict[int, int] = dict(plan.journals.tools)
        results: dict[int, TaskOutput] = {}
        for index, (task, reuse) in enumerate(zip(ended.next_spec.tasks, plan.reuse, strict=True)):
            if reuse is TaskReuse.COPIED:
                run = plan.earlier[task.name].run
                indices[run.task_index] = index
                if run.output is not None:
                    results[index] = run.output
        files = [
            one
            for one in ended.files
            if one.task_index in indices or (one.task_index in plan.journals.effects and one.call_id in ended.effects)
        ]
        found = await decide_artifacts(execution, ended.next_spec, files, results, {**plan.journals.effects, **indices})
        if limit := smaller_group_bytes(self._artifact_group_bytes, limits.max_stored_bytes):
            group_bytes = await read_group_bytes(self._database, execution.group_id)
            found.check(group_bytes, limit)
        return found

    async def _read(self, principal: Principal, wanted: Continuation) -> _Ended:
        async with self._database.read() as connection:
            execution = await existing_execution(connection, principal.group_id, wanted.execution_id)
            _check_state(execution, fork=wanted.fork)
            crews = CrewRepository(connection)
            spec = await crews.spec(execution.crew_id, execution.crew_revision)
            revision, next_spec = execution.crew_revision, spec
            if wanted.crew_revision is not None:
                found = await crews.revision(execution.crew_id, wanted.crew_revision)
                if found is None:
                    newest = await crews.revision(execution.crew_id, 0)
                    raise no_revision(
                        "crew_revision", execution.crew_name, wanted.crew_revision, newest[0] if newest else revision
                    )
                revision, next_spec = found
            return _Ended(
                execution,
                spec,
                await TaskRunRepository(connection, execution.id).list(),
                await QuestionRepository(connection).declined(execution.id),
                await ArtifactRepository(connection, execution.id).all(),
                await read_effects(connection, execution.id),
                revision,
                next_spec,
                await crews.tool_pins(execution.crew_id, revision),
            )

    def _plan(self, ended: _Ended, execution: Execution, wanted: Continuation) -> _Plan:
        before = fill_in_models(ended.spec, default=self._default_model, override=ended.execution.model)
        compared_model = ended.execution.model if wanted.keeps_models else execution.model
        after = fill_in_models(ended.next_spec, default=self._default_model, override=compared_model)
        earlier = _earlier(ended, task_fingerprints(before, ended.execution.inputs))
        fingerprints = task_fingerprints(after, execution.inputs)
        reuse = decide_reuse(after, fingerprints, earlier, wanted.from_task)
        journals = decide_journals(after, fingerprints, earlier, reuse, ended.declined)
        crew_plan = next((run for run in ended.runs if run.task_index == PLAN_INDEX), None)
        if crew_plan is not None and crew_plan.state is not TaskState.SUCCEEDED:
            if goes_on(crew_plan):
                journals.answers[PLAN_INDEX] = PLAN_INDEX
            crew_plan = None
        same = plan_fingerprint(before, ended.execution.inputs) == plan_fingerprint(after, execution.inputs)
        return _Plan(reuse, journals, earlier, crew_plan if same else None)


def _check_state(execution: Execution, *, fork: bool) -> None:
    if execution.state in _RESUMABLE or (fork and execution.state.terminal):
        return
    if execution.state is ExecutionState.SUCCEEDED:
        advice = "only one that FAILED or was CANCELLED can be resumed; ForkExecution makes another one of it"
    else:
        advice = "only one that has ended can be continued; wait for its end, or cancel it"
    raise FailedPrecondition(
        f"the execution is {execution.state}; {advice}",
        reason="EXECUTION_STATE",
        metadata={"execution_id": execution.id, "state": execution.state},
    )


def _task_faults(spec: CrewSpec, name: str) -> list[FieldViolation]:
    names = [task.name for task in spec.tasks]
    if not name or name in names:
        return []
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return [FieldViolation("from_task", f'the crew has no task "{name}"; its tasks are: {shown}')]


def _continued(ended: _Ended, wanted: Continuation, principal: Principal) -> Execution:
    before, now = ended.execution, utc_now()
    timeout = before.timeout if wanted.timeout is None else wanted.timeout
    return Execution(
        id=new_id(),
        group_id=before.group_id,
        subject=principal.subject,
        crew_id=before.crew_id,
        crew_revision=ended.revision,
        crew_name=ended.next_spec.name,
        state=ExecutionState.QUEUED,
        inputs={**before.inputs, **wanted.inputs},
        labels={**before.labels, **wanted.labels},
        model=before.model if wanted.model is None else wanted.model,
        priority=before.priority,
        identity=before.identity,
        on_credential_expiry=before.on_credential_expiry,
        grant_id="",
        resumed_from=before.id,
        from_task=wanted.from_task,
        batch_id="",
        batch_index=None,
        waits_turn=False,
        timeout=timeout,
        deadline_at=None if timeout is None else now + timedelta(seconds=timeout),
        epoch=0,
        generation=1,
        ready=True,
        last_sequence=0,
        usage=Usage(),
        limits=(wanted.limits or before.limits).lowered_by(ended.next_spec.limits),
        # A fork is another course, with limits of its own.
        used_before=Usage() if wanted.fork else before.used_before + before.usage,
        created_at=now,
    )


def _earlier(ended: _Ended, fingerprints: Sequence[Fingerprint]) -> dict[str, Earlier]:
    runs = {run.task_index: run for run in ended.runs}
    return {
        task.name: Earlier(runs[index], fingerprints[index])
        for index, task in enumerate(ended.spec.tasks)
        if index in runs
    }


def _tasks(execution_id: str, spec: CrewSpec, plan: _Plan) -> list[TaskRun]:
    tasks = [
        _copy(execution_id, index, plan.earlier[task.name].run)
        if reuse is TaskReuse.COPIED
        else pending_run(execution_id, index, task.name)
        for index, (task, reuse) in enumerate(zip(spec.tasks, plan.reuse, strict=True))
    ]
    # A finished plan was paid for as well; one that is missing is made by a worker.
    if plan.crew_plan is not None:
        tasks.append(_copy(execution_id, PLAN_INDEX, plan.crew_plan))
    return tasks


def _copy(execution_id: str, index: int, run: TaskRun) -> TaskRun:
    # What it cost was paid by the execution it comes from.
    return replace(run, execution_id=execution_id, task_index=index, attempt=0, usage=Usage(), copied=True)


def _continued_event(ended: _Ended, plan: _Plan) -> execution_pb2.ExecutionContinued:
    return execution_pb2.ExecutionContinued(
        execution_id=ended.execution.id,
        tasks=[
            execution_pb2.ContinuedTask(task_name=task.name, reuse=enum_to_proto(execution_pb2.TaskReuse, reuse))
            for task, reuse in zip(ended.next_spec.tasks, plan.reuse, strict=True)
        ],
    )
