"""CrewService at the edge."""

from coxswain.orchestrator.v1 import crew_pb2 as pb
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceServicer
from services.common.db.idempotency import request_hash
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.orchestrator.messages.crews import crew_to_proto, spec_from_proto
from services.orchestrator.usecases.crews import CrewUseCases


class CrewServicer(CrewServiceServicer):
    """Crews of groups."""

    def __init__(self, crews: CrewUseCases) -> None:
        self._crews = crews

    async def CreateCrew(self, request: pb.CreateCrewRequest, context: Context) -> pb.CreateCrewResponse:
        """See the proto."""
        crew = await self._crews.create(
            current_principal(),
            spec_from_proto(request.spec),
            request.request_id,
            request_hash(request, "request_id"),
        )
        return pb.CreateCrewResponse(crew=crew_to_proto(crew))

    async def GetCrew(self, request: pb.GetCrewRequest, context: Context) -> pb.GetCrewResponse:
        """See the proto."""
        crew = await self._crews.get(current_principal(), request.id, request.name, request.revision)
        return pb.GetCrewResponse(crew=crew_to_proto(crew))

    async def ListCrews(self, request: pb.ListCrewsRequest, context: Context) -> pb.ListCrewsResponse:
        """See the proto."""
        crews, token = await self._crews.page(current_principal(), request.page_size, request.page_token)
        return pb.ListCrewsResponse(crews=map(crew_to_proto, crews), next_page_token=token)

    async def UpdateCrew(self, request: pb.UpdateCrewRequest, context: Context) -> pb.UpdateCrewResponse:
        """See the proto."""
        crew = await self._crews.update(
            current_principal(), request.id, spec_from_proto(request.spec), request.expected_revision
        )
        return pb.UpdateCrewResponse(crew=crew_to_proto(crew))

    async def DeleteCrew(self, request: pb.DeleteCrewRequest, context: Context) -> pb.DeleteCrewResponse:
        """See the proto."""
        await self._crews.delete(current_principal(), request.id)
        return pb.DeleteCrewResponse()

    async def ValidateCrew(self, request: pb.ValidateCrewRequest, context: Context) -> pb.ValidateCrewResponse:
        """See the proto."""
        faults, warnings = await self._crews.validate(spec_from_proto(request.spec))
        return pb.ValidateCrewResponse(
            faults=[pb.CrewFault(field=fault.field, description=fault.description) for fault in faults],
            warnings=[pb.CrewFault(field=fault.field, description=fault.description) for fault in warnings],
        )
