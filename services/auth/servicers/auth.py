"""AuthService at the edge."""

import base64

from google.protobuf.duration_pb2 import Duration

from coxswain.auth.v1 import auth_service_pb2 as pb
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceServicer
from services.auth.domain import CredentialPurpose, ExecutionIdentity, OnCredentialExpiry
from services.auth.keys.signing import SigningKeys
from services.auth.servicers.convert import principal_message, timestamp
from services.auth.usecases.credentials import Credentials
from services.auth.usecases.delegations import Delegations
from services.auth.usecases.exchange import Exchange
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.pipeline import Context
from services.common.identity.authenticator import Credential


class AuthServicer(AuthServiceServicer):
    """Identity, outbound credentials and grants."""

    def __init__(
        self,
        exchange: Exchange,
        credentials: Credentials,
        delegations: Delegations,
        signing_keys: SigningKeys,
        *,
        jwks_max_age_seconds: int,
    ) -> None:
        self._exchange = exchange
        self._credentials = credentials
        self._delegations = delegations
        self._signing_keys = signing_keys
        self._jwks_max_age_seconds = jwks_max_age_seconds

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        """See the proto."""
        call = current_call()
        if call.principal is not None:
            principal, roles = call.principal, await self._exchange.groups_of(call.principal)
        else:
            principal, roles = await self._exchange.who_am_i(call.credential, call.group_header)
        groups = [pb.GroupMembership(group_id=group_id, role=int(role)) for group_id, role in roles.items()]  # type: ignore[arg-type]
        return pb.WhoAmIResponse(principal=principal_message(principal), groups=groups)

    async def ExchangeToken(self, request: pb.ExchangeTokenRequest, context: Context) -> pb.ExchangeTokenResponse:
        """See the proto."""
        credential = Credential(request.authorization, request.forwarded_access_token)
        principal = await self._exchange.exchange(credential, request.group_id)
        return pb.ExchangeTokenResponse(principal_token=principal.token, principal=principal_message(principal))

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        """See the proto."""
        keys = [
            pb.JsonWebKey(
                kid=kid,
                kty="OKP",
                alg="EdDSA",
                crv="Ed25519",
                x=base64.urlsafe_b64encode(key.public_bytes_raw()).rstrip(b"=").decode(),
                use="sig",
            )
            for kid, key in self._signing_keys.published.items()
        ]
        return pb.GetJwksResponse(keys=keys, max_age=Duration(seconds=self._jwks_max_age_seconds))

    async def ExplainCredential(
        self, request: pb.ExplainCredentialRequest, context: Context
    ) -> pb.ExplainCredentialResponse:
        """See the proto."""
        links, origin = await self._credentials.explain(
            current_principal(), CredentialPurpose(request.purpose), request.destination_origin, request.provider
        )
        told = [pb.LinkExplanation(link=link.link, outcome=int(link.outcome), detail=link.detail) for link in links]  # type: ignore[arg-type]
        return pb.ExplainCredentialResponse(links=told, resolvable=origin is not None, origin=origin or "")

    async def ResolveCredential(
        self, request: pb.ResolveCredentialRequest, context: Context
    ) -> pb.ResolveCredentialResponse:
        """See the proto."""
        credential = await self._credentials.resolve(
            current_principal(), CredentialPurpose(request.purpose), request.destination_origin, request.provider
        )
        return pb.ResolveCredentialResponse(
            token=credential.token,
            origin=credential.origin,
            link=credential.link,
            expire_time=timestamp(credential.expires_at),
            on_behalf_of_user=credential.on_behalf_of_user,
        )

    async def Delegate(self, request: pb.DelegateRequest, context: Context) -> pb.DelegateResponse:
        """See the proto."""
        grant = await self._delegations.delegate(
            current_principal(),
            request.execution_id,
            ExecutionIdentity(request.identity),
            OnCredentialExpiry(request.on_credential_expiry or OnCredentialExpiry.PARK),
        )
        return pb.DelegateResponse(grant_id=grant.id, identity=int(grant.identity))  # type: ignore[arg-type]

    async def IssueExecutionPrincipal(
        self, request: pb.IssueExecutionPrincipalRequest, context: Context
    ) -> pb.IssueExecutionPrincipalResponse:
        """See the proto."""
        principal = await self._delegations.issue(request.grant_id, request.execution_id)
        return pb.IssueExecutionPrincipalResponse(
            principal_token=principal.token, principal=principal_message(principal)
        )

    async def RenewDelegation(self, request: pb.RenewDelegationRequest, context: Context) -> pb.RenewDelegationResponse:
        """See the proto."""
        expires_at = await self._delegations.renew(current_principal(), request.execution_id)
        return pb.RenewDelegationResponse(expire_time=timestamp(expires_at))

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.RevokeResponse:
        """See the proto."""
        await self._delegations.revoke(request.execution_id)
        return pb.RevokeResponse()
