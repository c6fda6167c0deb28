"""CrewService at the edge."""

from coxswain.orchestrator.v1 import a2a_pb2
from coxswain.orchestrator.v1 import crew_pb2 as pb
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceServicer
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.resource_key import key_from_proto
from services.orchestrator.messages.crews import (
    changed_spec,
    checked_spec,
    crew_to_proto,
    fault_to_proto,
)
from services.orchestrator.messages.publications import publication_to_proto
from services.orchestrator.usecases.crews import Crews
from services.orchestrator.usecases.publications import Publications


class CrewServicer(CrewServiceServicer):
    """Crews of groups."""

    def __init__(self, crews: Crews, publications: Publications) -> None:
        self._crews = crews
        self._publications = publications

    async def CreateCrew(self, request: pb.CreateCrewRequest, context: Context) -> pb.CreateCrewResponse:
        """See the proto."""
        principal = current_principal()
        key = request_key(principal, request)
        created = await self._crews.create(principal, *checked_spec(request.spec), key)
        return pb.CreateCrewResponse(crew=crew_to_proto(created.crew), warnings=map(fault_to_proto, created.warnings))

    async def GetCrew(self, request: pb.GetCrewRequest, context: Context) -> pb.GetCrewResponse:
        """See the proto."""
        crew = await self._crews.get(current_principal(), key_from_proto(request), request.revision)
        return pb.GetCrewResponse(crew=crew_to_proto(crew))

    async def ListCrews(self, request: pb.ListCrewsRequest, context: Context) -> pb.ListCrewsResponse:
        """See the proto."""
        page = await self._crews.page(current_principal(), request.page_size, request.page_token)
        return pb.ListCrewsResponse(crews=map(crew_to_proto, page.items), next_page_token=page.next_page_token)

    async def UpdateCrew(self, request: pb.UpdateCrewRequest, context: Context) -> pb.UpdateCrewResponse:
        """See the proto."""
        changed = await self._crews.update(
            current_principal(),
            key_from_proto(request),
            lambda present: changed_spec(present, request.spec, request.update_mask),
            request.expected_revision,
            carry_over_memories=request.carry_over_memories,
        )
        return pb.UpdateCrewResponse(
            crew=crew_to_proto(changed.crew),
            warnings=map(fault_to_proto, changed.warnings),
            carried_memories=changed.carried_memories,
        )

    async def DeleteCrew(self, request: pb.DeleteCrewRequest, context: Context) -> pb.DeleteCrewResponse:
        """See the proto."""
        await self._crews.delete(current_principal(), key_from_proto(request))
        return pb.DeleteCrewResponse()

    async def ValidateCrew(self, request: pb.ValidateCrewRequest, context: Context) -> pb.ValidateCrewResponse:
        """See the proto."""
        report = await self._crews.validate(current_principal(), *checked_spec(request.spec))
        return pb.ValidateCrewResponse(
            faults=map(fault_to_proto, report.faults), warnings=map(fault_to_proto, report.warnings)
        )

    async def ListPublications(
        self, request: a2a_pb2.ListPublicationsRequest, context: Context
    ) -> a2a_pb2.ListPublicationsResponse:
        """See the proto."""
        page = await self._publications.page(current_principal(), request.page_size, request.page_token)
        return a2a_pb2.ListPublicationsResponse(
            publications=map(publication_to_proto, page.items), next_page_token=page.next_page_token
        )
