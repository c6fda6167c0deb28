"""Schedules: messages to domain and back."""

from google.protobuf import struct_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1 import delegation_pb2
from coxswain.orchestrator.v1 import execution_pb2, schedule_pb2
from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.json_values import from_value
from services.common.grpc.validation import rule_violations_cutting
from services.orchestrator.domain.schedule import Plan, Schedule
from services.orchestrator.events import error_to_proto
from services.orchestrator.messages.executions import start_from_proto, start_to_proto

_CHANGEABLE = frozenset({"name", "cron", "time_zone", "start", "paused"}) | {
    f"start.{field}"
    for field in execution_pb2.StartExecutionRequest.DESCRIPTOR.fields_by_name
    if field not in {"request_id", "on_credential_expiry", "webhook"}
}


def checked_plan(message: schedule_pb2.Schedule) -> tuple[Plan, list[FieldViolation]]:
    """Return what a caller chooses of a schedule, and the rules of the message that it breaks."""
    broken = [*rule_violations_cutting(message, "schedule"), *_without_bad_values(message.start)]
    plan = Plan(
        name=message.name,
        cron=message.cron,
        time_zone=message.time_zone,
        start=start_from_proto(message.start, "schedule.start."),
        paused=message.paused,
    )
    return plan, broken


def changed_plan(present: Schedule, given: schedule_pb2.Schedule, mask: FieldMask) -> tuple[Plan, list[FieldViolation]]:
    """Return the plan of a schedule with the fields that a mask names replaced, and the rules that it then breaks.

    Raises:
        InvalidArgument: the mask names a field that cannot be changed.
    """
    message = schedule_to_proto(present)
    replace_fields(message, given, mask_paths(mask, _CHANGEABLE))
    return checked_plan(message)


def _without_bad_values(start: execution_pb2.StartExecutionRequest) -> list[FieldViolation]:
    """Take out of a start what cannot be read, and return the faults of its inputs."""
    # Values that are none: rules name them as faults.
    if start.identity not in delegation_pb2.ExecutionIdentity.values():
        start.ClearField("identity")
    if start.on_credential_expiry not in delegation_pb2.OnCredentialExpiry.values():
        start.ClearField("on_credential_expiry")
    if start.overlap_policy not in execution_pb2.OverlapPolicy.values():
        start.ClearField("overlap_policy")
    faults: list[FieldViolation] = []
    for name, value in start.inputs.items():
        try:
            from_value(f"schedule.start.inputs.{name}", value, exact=True)
        except InvalidArgument as error:
            faults += error.violations
            # It is there: it must not be called missing too.
            value.null_value = struct_pb2.NULL_VALUE
    return faults


def schedule_to_proto(schedule: Schedule) -> schedule_pb2.Schedule:
    """Return a schedule as callers see it."""
    message = schedule_pb2.Schedule(
        id=schedule.id,
        name=schedule.name,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        start=start_to_proto(schedule.start),
        paused=schedule.paused,
        subject=schedule.subject,
        revision=schedule.revision,
        last_execution_id=schedule.last_execution_id,
        last_error=None if schedule.last_error is None else error_to_proto(schedule.last_error),
    )
    message.create_time.FromDatetime(schedule.created_at)
    message.update_time.FromDatetime(schedule.updated_at)
    if schedule.next_fire_at is not None:
        message.next_fire_time.FromDatetime(schedule.next_fire_at)
    if schedule.last_fire_at is not None:
        message.last_fire_time.FromDatetime(schedule.last_fire_at)
    return message
