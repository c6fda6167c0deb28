"""ScheduleService at the edge."""

from coxswain.orchestrator.v1 import schedule_pb2 as pb
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.resource_key import key_from_proto
from services.orchestrator.messages.executions import execution_to_proto
from services.orchestrator.messages.schedules import changed_plan, checked_plan, schedule_to_proto
from services.orchestrator.usecases.schedules import Schedules


class ScheduleServicer(ScheduleServiceServicer):
    """Executions by the clock."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Context) -> pb.CreateScheduleResponse:
        """See the proto."""
        principal = current_principal()
        key = request_key(principal, request)
        schedule = await self._schedules.create(principal, *checked_plan(request.schedule), key)
        return pb.CreateScheduleResponse(schedule=schedule_to_proto(schedule))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Context) -> pb.GetScheduleResponse:
        """See the proto."""
        schedule = await self._schedules.get(current_principal(), key_from_proto(request))
        return pb.GetScheduleResponse(schedule=schedule_to_proto(schedule))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Context) -> pb.ListSchedulesResponse:
        """See the proto."""
        page = await self._schedules.page(current_principal(), request.page_size, request.page_token)
        return pb.ListSchedulesResponse(
            schedules=map(schedule_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Context) -> pb.UpdateScheduleResponse:
        """See the proto."""
        schedule = await self._schedules.update(
            current_principal(),
            key_from_proto(request),
            lambda present: changed_plan(present, request.schedule, request.update_mask),
            request.expected_revision,
        )
        return pb.UpdateScheduleResponse(schedule=schedule_to_proto(schedule))

    async def FireSchedule(self, request: pb.FireScheduleRequest, context: Context) -> pb.FireScheduleResponse:
        """See the proto."""
        principal = current_principal()
        execution = await self._schedules.fire(principal, key_from_proto(request), request_key(principal, request))
        return pb.FireScheduleResponse(execution=execution_to_proto(execution))

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Context) -> pb.DeleteScheduleResponse:
        """See the proto."""
        await self._schedules.delete(current_principal(), key_from_proto(request))
        return pb.DeleteScheduleResponse()
