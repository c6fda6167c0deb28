"""Schedules: messages to domain and back."""

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.orchestrator.v1 import execution_pb2, schedule_pb2
from services.common.grpc.field_masks import mask_paths, replace_fields
from services.common.grpc.validation import validate
from services.orchestrator.domain.schedule import Plan, Schedule
from services.orchestrator.events import error_to_proto
from services.orchestrator.messages.executions import start_from_proto, start_to_proto

_CHANGEABLE = frozenset({"name", "cron", "time_zone", "start", "paused"}) | {
    f"start.{field}"
    for field in execution_pb2.StartExecutionRequest.DESCRIPTOR.fields_by_name
    if field not in {"request_id", "on_credential_expiry"}
}


def plan_from_proto(message: schedule_pb2.Schedule) -> Plan:
    """Return what a caller chooses of a schedule.

    Raises:
        InvalidArgument: an input is not a valid JSON value.
    """
    return Plan(
        name=message.name,
        cron=message.cron,
        time_zone=message.time_zone,
        start=start_from_proto(message.start, "schedule.start."),
        paused=message.paused,
    )


def changed_plan(present: Schedule, given: schedule_pb2.Schedule, mask: FieldMask) -> Plan:
    """Return the plan of a schedule with the fields that a mask names replaced by the given ones.

    Raises:
        InvalidArgument: the mask names a field that cannot be changed, or a field breaks a rule.
    """
    message = schedule_to_proto(present)
    replace_fields(message, given, mask_paths(mask, _CHANGEABLE))
    validate(message, "schedule")
    return plan_from_proto(message)


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
