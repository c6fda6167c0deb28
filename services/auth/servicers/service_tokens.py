"""ServiceTokenService at the edge."""

from coxswain.auth.v1 import service_token_pb2
from coxswain.auth.v1.service_token_service_pb2_grpc import ServiceTokenServiceServicer
from services.auth.servicers.messages import role_from_proto, service_token_to_proto
from services.auth.usecases.service_tokens import ServiceTokens
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.grpc.times import duration_from_proto


class ServiceTokenServicer(ServiceTokenServiceServicer):
    """Tokens of groups for machines."""

    def __init__(self, tokens: ServiceTokens) -> None:
        self._tokens = tokens

    async def CreateServiceToken(
        self, request: service_token_pb2.CreateServiceTokenRequest, context: Context
    ) -> service_token_pb2.CreateServiceTokenResponse:
        """See the proto."""
        lifetime = duration_from_proto(request.lifetime, "lifetime")
        token, kept = await self._tokens.create(
            current_principal(), request.name, role_from_proto(request.role), lifetime
        )
        return service_token_pb2.CreateServiceTokenResponse(token=token, service_token=service_token_to_proto(kept))

    async def ListServiceTokens(
        self, request: service_token_pb2.ListServiceTokensRequest, context: Context
    ) -> service_token_pb2.ListServiceTokensResponse:
        """See the proto."""
        page = await self._tokens.page(current_principal().group_id, request.page_size, request.page_token)
        return service_token_pb2.ListServiceTokensResponse(
            service_tokens=map(service_token_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def RevokeServiceToken(
        self, request: service_token_pb2.RevokeServiceTokenRequest, context: Context
    ) -> service_token_pb2.RevokeServiceTokenResponse:
        """See the proto."""
        await self._tokens.revoke(current_principal().group_id, request.name)
        return service_token_pb2.RevokeServiceTokenResponse()
