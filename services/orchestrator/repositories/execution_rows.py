"""What columns of executions and of their tasks say."""

from typing import Any

from sqlalchemy import ColumnElement, Row, Table, bindparam

from services.orchestrator.domain.document import from_document
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionError,
    ExecutionIdentity,
    ExecutionState,
    ModelWait,
    OnCredentialExpiry,
    OverlapPolicy,
    TaskOutput,
    Usage,
)
from services.orchestrator.domain.limits import ExecutionLimits


def to_execution(row: Row[Any]) -> Execution:
    """Return the execution of a row of `executions`, which may lack inputs and result."""
    return execution_of(row._mapping)  # noqa: SLF001 - the documented way to read a row by name


def execution_of(columns: Any) -> Execution:
    """Return the execution of a row of `executions` by its columns, which may lack inputs and result."""
    result, error = columns.get("result"), columns["error"]
    limits, used_before = columns["limits"], columns["used_before"]
    return Execution(
        id=columns["id"],
        group_id=columns["group_id"],
        subject=columns["subject"],
        crew_id=columns["crew_id"],
        crew_revision=columns["crew_revision"],
        crew_name=columns["crew_name"],
        state=ExecutionState(columns["state"]),
        inputs=columns.get("inputs") or {},
        labels=columns["labels"],
        model=columns["model"],
        priority=columns["priority"],
        identity=ExecutionIdentity(columns["identity"]),
        on_credential_expiry=OnCredentialExpiry(columns["on_credential_expiry"]),
        grant_id=columns["grant_id"],
        resumed_from=columns["resumed_from"],
        from_task=columns["from_task"],
        schedule_id=columns["schedule_id"],
        batch_id=columns["batch_id"],
        batch_index=columns["batch_index"],
        concurrency_key=columns["concurrency_key"],
        overlap_policy=OverlapPolicy(columns["overlap_policy"]),
        waits_turn=columns["waits_turn"],
        timeout=columns["timeout_seconds"],
        deadline_at=columns["deadline_at"],
        epoch=columns["epoch"],
        lost_hosts=columns["lost_hosts"],
        generation=columns["generation"],
        ready=columns["ready"],
        last_sequence=columns["last_sequence"],
        usage=usage_of(columns),
        created_at=columns["created_at"],
        traceparent=columns["traceparent"],
        started_at=columns["started_at"],
        ended_at=columns["ended_at"],
        cancel_requested_at=columns["cancel_requested_at"],
        result=None if result is None else from_document(TaskOutput, result),
        error=None if error is None else from_document(ExecutionError, error),
        limits=from_document(ExecutionLimits, limits or {}),
        used_before=from_document(Usage, used_before or {}),
        model_waits=tuple(from_document(ModelWait, wait) for wait in columns["model_waits"] or ()),
    )


def usage_of(columns: Any) -> Usage:
    """Return the usage in the columns of an execution or a task."""
    return Usage(
        columns["llm_calls"],
        columns["input_tokens"],
        columns["output_tokens"],
        columns["cost"],
        columns["tool_calls"],
    )


def usage_columns(usage: Usage) -> dict[str, float]:
    """Return the columns of an execution or a task that hold its usage."""
    return {
        "llm_calls": usage.llm_calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": usage.cost,
        "tool_calls": usage.tool_calls,
    }


def added_usage(table: Table) -> dict[str, ColumnElement[Any]]:
    """Return the columns of an execution or a task with a call's usage added to them, see `used_parameters`."""
    return {name: table.c[name] + bindparam(f"used_{name}") for name in usage_columns(Usage())}


def used_parameters(usage: Usage) -> dict[str, float]:
    """Return the parameters of a statement that adds a call's usage."""
    return {f"used_{name}": value for name, value in usage_columns(usage).items()}
