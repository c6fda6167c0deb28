"""ScheduleService at the edge."""

from coxswain.orchestrator.v1 import schedule_pb2 as pb
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceServicer
from services.common.db.idempotency import request_hash
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.messages.executions import error_to_proto, start_from_proto, start_to_proto
from services.orchestrator.usecases.schedules import Plan, ScheduleUseCases
from services.orchestrator.usecases.starts import RequestId


class ScheduleServicer(ScheduleServiceServicer):
    """Executions by the clock."""

    def __init__(self, schedules: ScheduleUseCases) -> None:
        self._schedules = schedules

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Context) -> pb.CreateScheduleResponse:
        """See the proto."""
        schedule = await self._schedules.create(
            current_principal(),
            _plan(request.schedule),
            RequestId(request.request_id, request_hash(request, "request_id")),
        )
        return pb.CreateScheduleResponse(schedule=_message(schedule))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Context) -> pb.GetScheduleResponse:
        """See the proto."""
        return pb.GetScheduleResponse(schedule=_message(await self._schedules.get(current_principal(), request.id)))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Context) -> pb.ListSchedulesResponse:
        """See the proto."""
        schedules, token = await self._schedules.page(current_principal(), request.page_size, request.page_token)
        return pb.ListSchedulesResponse(schedules=map(_message, schedules), next_page_token=token)

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Context) -> pb.UpdateScheduleResponse:
        """See the proto."""
        schedule = await self._schedules.update(
            current_principal(), request.schedule.id, _plan(request.schedule), request.expected_revision
        )
        return pb.UpdateScheduleResponse(schedule=_message(schedule))

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Context) -> pb.DeleteScheduleResponse:
        """See the proto."""
        await self._schedules.delete(current_principal(), request.id)
        return pb.DeleteScheduleResponse()


def _plan(message: pb.Schedule) -> Plan:
    return Plan(
        name=message.name,
        cron=message.cron,
        time_zone=message.time_zone,
        start=start_from_proto(message.start, "schedule.start."),
        paused=message.paused,
    )


def _message(schedule: Schedule) -> pb.Schedule:
    message = pb.Schedule(
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
