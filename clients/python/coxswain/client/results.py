"""What the client's own methods return and raise beyond the generated messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1.delegation_pb2 import ExecutionIdentity, OnCredentialExpiry
from coxswain.client.progress import state_words
from coxswain.client.values import to_value
from coxswain.orchestrator.v1.crew_pb2 import Crew, CrewFault, CrewSpec, ExecutionLimits, GetCrewRequest
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ExecutionWebhook,
    ForkExecutionRequest,
    OverlapPolicy,
    ResumeExecutionRequest,
    StartExecutionRequest,
)

Continuation = TypeVar("Continuation", ResumeExecutionRequest, ForkExecutionRequest)

EVERY_FIELD = FieldMask(paths=["*"])
"""The ``update_mask`` of a request that replaces the whole resource."""

CrewReference = Crew | CrewSpec | str
"""A crew as a server returned it, a document to apply first, or the id or name of a stored crew."""


@dataclass(frozen=True, slots=True)
class AppliedCrew:
    """A stored crew and what applying it changed."""

    crew: Crew
    change: Literal["created", "updated", "unchanged"]
    warnings: tuple[CrewFault, ...] = ()
    """What would run but deserves a look."""
    carried_memories: int = 0
    """How many memories were copied to the crew's new memory."""


class ExecutionNotSucceeded(Exception):
    """The execution ended without a result; ``execution`` has its state and error."""

    def __init__(self, execution: Execution) -> None:
        state = state_words(execution.state)
        task = f" in task {execution.error.task_name!r}" if execution.error.task_name else ""
        why = f": {execution.error.message} ({execution.error.reason})" if execution.error.reason else ""
        super().__init__(f"execution {execution.id} {state}{task}{why}")
        self.execution = execution


def id_of(reference: str) -> str:
    """The reference in canonical form if it looks like an id; empty if it is a name."""
    try:
        return str(UUID(reference))
    except ValueError:
        return ""


def crew_key(reference: str) -> GetCrewRequest:
    """Ask by id for what looks like one, else by name."""
    crew_id = id_of(reference)
    return GetCrewRequest(id=crew_id) if crew_id else GetCrewRequest(name=reference)


def start_request(
    crew: Crew | str,
    inputs: Mapping[str, object] | None,
    *,
    model: str = "",
    request_id: str = "",
    priority: int = 0,
    timeout: float | None = None,
    labels: Mapping[str, str] | None = None,
    identity: ExecutionIdentity.ValueType = ExecutionIdentity.EXECUTION_IDENTITY_UNSPECIFIED,
    on_credential_expiry: OnCredentialExpiry.ValueType = OnCredentialExpiry.ON_CREDENTIAL_EXPIRY_UNSPECIFIED,
    concurrency_key: str = "",
    overlap_policy: OverlapPolicy.ValueType = OverlapPolicy.OVERLAP_POLICY_UNSPECIFIED,
    limits: ExecutionLimits | None = None,
    webhook: ExecutionWebhook | None = None,
) -> StartExecutionRequest:
    """The request of an execution: of that revision of a crew, or of the newest one of a crew's id or name.

    Raises TypeError or ValueError naming the input that cannot be sent.
    """
    request = StartExecutionRequest(
        model=model,
        request_id=request_id,
        priority=priority,
        labels=labels,
        identity=identity,
        on_credential_expiry=on_credential_expiry,
        concurrency_key=concurrency_key,
        overlap_policy=overlap_policy,
        limits=limits,
        webhook=webhook,
    )
    if isinstance(crew, Crew):
        request.crew_id, request.crew_revision = crew.id, crew.revision
    elif crew_id := id_of(crew):
        request.crew_id = crew_id
    else:
        request.crew_name = crew
    for name, value in (inputs or {}).items():
        request.inputs[name].CopyFrom(to_value(value, f"inputs.{name}"))
    if timeout is not None:
        request.timeout.FromMilliseconds(round(timeout * 1000))
    return request


def continuation_request(
    kind: type[Continuation],
    execution_id: str,
    inputs: Mapping[str, object] | None,
    *,
    crew_revision: int | None,
    model: str | None,
    from_task: str,
    labels: Mapping[str, str] | None,
    timeout: float | None,
    limits: ExecutionLimits | None,
    request_id: str,
) -> Continuation:
    """The request to continue an execution; None is as before.

    Raises TypeError or ValueError naming the input that cannot be sent.
    """
    request = kind(
        id=execution_id,
        crew_revision=crew_revision,
        model=model,
        from_task=from_task,
        labels=labels,
        limits=limits,
        request_id=request_id,
    )
    for name, value in (inputs or {}).items():
        request.inputs[name].CopyFrom(to_value(value, f"inputs.{name}"))
    if timeout is not None:
        request.timeout.FromMilliseconds(round(timeout * 1000))
    return request
