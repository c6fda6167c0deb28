"""ScheduleService at the edge."""

from coxswain.orchestrator.v1 import schedule_service_pb2 as pb
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceServicer
from services.common.errors import Unimplemented
from services.common.grpc.pipeline import Context

_PART = "cron schedules"


class ScheduleServicer(ScheduleServiceServicer):
    """Executions by the clock."""

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Context) -> pb.CreateScheduleResponse:
        """See the proto."""
        raise Unimplemented.part(_PART)

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Context) -> pb.ListSchedulesResponse:
        """See the proto."""
        raise Unimplemented.part(_PART)

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Context) -> pb.UpdateScheduleResponse:
        """See the proto."""
        raise Unimplemented.part(_PART)

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Context) -> pb.DeleteScheduleResponse:
        """See the proto."""
        raise Unimplemented.part(_PART)
