"""Executions: domain to messages, and requests to domain."""

from coxswain.auth.v1 import delegation_pb2
from coxswain.orchestrator.v1 import execution_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.enums import enum_from_proto, enum_to_proto
from services.common.grpc.json_values import from_struct, from_value, to_struct, to_value
from services.common.grpc.times import duration_to_proto
from services.orchestrator.domain.continuation import Continuation
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionIdentity,
    ModelWait,
    OnCredentialExpiry,
    OverlapPolicy,
    Start,
    TaskOutput,
    TaskRun,
    Usage,
)
from services.orchestrator.domain.queue_status import QueueStatus
from services.orchestrator.events import error_to_proto
from services.orchestrator.messages.crews import limits_from_proto, limits_to_proto


def execution_to_proto(execution: Execution, queue: QueueStatus | None = None) -> execution_pb2.Execution:
    """Return an execution as callers see it, with why it waits if that is known."""
    message = execution_pb2.Execution(
        id=execution.id,
        crew_id=execution.crew_id,
        crew_revision=execution.crew_revision,
        crew_name=execution.crew_name,
        state=enum_to_proto(execution_pb2.ExecutionState, execution.state),
        result=None if execution.result is None else output_to_proto(execution.result),
        error=None if execution.error is None else error_to_proto(execution.error),
        last_sequence=execution.last_sequence,
        claims=execution.epoch,
        priority=execution.priority,
        resumed_from=execution.resumed_from,
        forked_from_task=execution.from_task,
        schedule_id=execution.schedule_id,
        batch_id=execution.batch_id,
        batch_index=execution.batch_index,
        concurrency_key=execution.concurrency_key,
        labels=execution.labels,
        usage=usage_to_proto(execution.usage),
        subject=execution.subject,
        model=execution.model,
        timeout=duration_to_proto(execution.timeout),
        identity=enum_to_proto(delegation_pb2.ExecutionIdentity, execution.identity),
        on_credential_expiry=enum_to_proto(delegation_pb2.OnCredentialExpiry, execution.on_credential_expiry),
        limits=limits_to_proto(execution.limits),
        queue=None if queue is None else _queue_to_proto(queue),
        open_question_ids=execution.open_question_ids,
    )
    for name, value in execution.inputs.items():
        message.inputs[name].CopyFrom(to_value(value))
    message.create_time.FromDatetime(execution.created_at)
    if execution.started_at is not None:
        message.start_time.FromDatetime(execution.started_at)
    if execution.ended_at is not None:
        message.end_time.FromDatetime(execution.ended_at)
    if execution.cancel_requested_at is not None:
        message.cancel_request_time.FromDatetime(execution.cancel_requested_at)
    if execution.model_waits:
        message.model_wait.CopyFrom(_model_wait_to_proto(execution.model_waits[0]))
    return message


def _model_wait_to_proto(wait: ModelWait) -> execution_pb2.ModelWait:
    message = execution_pb2.ModelWait(
        model=wait.model,
        reason=wait.reason,
        message=wait.message,
        task_name=wait.task_name,
        failures=wait.failures,
    )
    message.retry_time.FromDatetime(wait.retry_at)
    message.give_up_time.FromDatetime(wait.give_up_at)
    return message


def _queue_to_proto(status: QueueStatus) -> execution_pb2.QueueStatus:
    return execution_pb2.QueueStatus(
        reason=enum_to_proto(execution_pb2.QueueReason, status.reason),
        message=status.message,
        ahead_count=status.ahead_count,
    )


def start_from_proto(message: execution_pb2.StartExecutionRequest, path: str = "") -> Start:
    """Return what to run; faults name fields of a request in which the message lies at `path`.

    Raises:
        InvalidArgument: an input is not a valid JSON value, or a whole number beyond 2^53; or a message within another
            one has a webhook.
    """
    if path and message.HasField("webhook"):
        raise InvalidArgument.field(
            f"{path}webhook", "must be left out: CreateWebhook follows the executions of a schedule, or of some labels"
        )
    expiry = message.on_credential_expiry or delegation_pb2.ON_CREDENTIAL_EXPIRY_PARK
    return Start(
        crew_id=message.crew_id,
        crew_revision=message.crew_revision,
        inputs={name: from_value(f"{path}inputs.{name}", value, exact=True) for name, value in message.inputs.items()},
        labels=dict(message.labels),
        model=message.model,
        priority=message.priority,
        timeout=message.timeout.ToNanoseconds() / 1e9 if message.HasField("timeout") else None,
        identity=enum_from_proto(ExecutionIdentity, delegation_pb2.ExecutionIdentity, message.identity),
        on_credential_expiry=enum_from_proto(OnCredentialExpiry, delegation_pb2.OnCredentialExpiry, expiry),
        crew_name=message.crew_name,
        concurrency_key=message.concurrency_key,
        overlap_policy=enum_from_proto(
            OverlapPolicy, execution_pb2.OverlapPolicy, message.overlap_policy or execution_pb2.OVERLAP_POLICY_ALLOW
        ),
        limits=limits_from_proto(message.limits),
    )


def continuation_from_proto(
    message: execution_pb2.ResumeExecutionRequest | execution_pb2.ForkExecutionRequest,
) -> Continuation:
    """Return which execution to continue and how.

    Raises:
        InvalidArgument: an input is not a valid JSON value, or a whole number beyond 2^53.
    """
    return Continuation(
        execution_id=message.id,
        fork=isinstance(message, execution_pb2.ForkExecutionRequest),
        crew_revision=message.crew_revision if message.HasField("crew_revision") else None,
        model=message.model if message.HasField("model") else None,
        inputs={name: from_value(f"inputs.{name}", value, exact=True) for name, value in message.inputs.items()},
        labels=dict(message.labels),
        timeout=message.timeout.ToNanoseconds() / 1e9 if message.HasField("timeout") else None,
        limits=limits_from_proto(message.limits) if message.HasField("limits") else None,
        from_task=message.from_task,
    )


def start_to_proto(start: Start) -> execution_pb2.StartExecutionRequest:
    """Return what to run as callers ask for it."""
    message = execution_pb2.StartExecutionRequest(
        crew_revision=start.crew_revision,
        labels=start.labels,
        model=start.model,
        priority=start.priority,
        timeout=duration_to_proto(start.timeout),
        identity=enum_to_proto(delegation_pb2.ExecutionIdentity, start.identity),
        on_credential_expiry=enum_to_proto(delegation_pb2.OnCredentialExpiry, start.on_credential_expiry),
        concurrency_key=start.concurrency_key,
        overlap_policy=(
            execution_pb2.OVERLAP_POLICY_UNSPECIFIED
            if start.overlap_policy is OverlapPolicy.ALLOW
            else enum_to_proto(execution_pb2.OverlapPolicy, start.overlap_policy)
        ),
        limits=limits_to_proto(start.limits),
    )
    if start.crew_id:
        message.crew_id = start.crew_id
    else:
        message.crew_name = start.crew_name
    for name, value in start.inputs.items():
        message.inputs[name].CopyFrom(to_value(value))
    return message


def task_run_to_proto(run: TaskRun) -> execution_pb2.TaskRun:
    """Return a task of an execution as callers see it."""
    message = execution_pb2.TaskRun(
        task_name=run.name,
        task_index=run.task_index,
        state=enum_to_proto(execution_pb2.TaskState, run.state),
        attempt=run.attempt,
        output=None if run.output is None else output_to_proto(run.output),
        error=None if run.error is None else error_to_proto(run.error),
        usage=usage_to_proto(run.usage),
        copied=run.copied,
        open_question_ids=run.open_question_ids,
        output_artifact=run.output_artifact,
    )
    if run.started_at is not None:
        message.start_time.FromDatetime(run.started_at)
    if run.ended_at is not None:
        message.end_time.FromDatetime(run.ended_at)
    return message


def output_to_proto(output: TaskOutput) -> execution_pb2.TaskOutput:
    """Return a task's result as callers see it."""
    return execution_pb2.TaskOutput(
        text=output.text,
        structured=None if output.structured is None else to_struct(output.structured),
        agent_role=output.agent_role,
        cut_off=output.cut_off,
    )


def output_from_proto(message: execution_pb2.TaskOutput) -> TaskOutput:
    """Return a task's result."""
    structured = from_struct("structured", message.structured) if message.HasField("structured") else None
    return TaskOutput(message.text, structured, message.agent_role, message.cut_off)


def usage_to_proto(usage: Usage) -> execution_pb2.ExecutionUsage:
    """Return a usage as callers see it."""
    return execution_pb2.ExecutionUsage(
        llm_calls=usage.llm_calls,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost=usage.cost,
        tool_calls=usage.tool_calls,
    )
