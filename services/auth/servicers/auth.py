"""AuthService at the edge."""

import base64

from google.protobuf.duration_pb2 import Duration

from coxswain.auth.v1 import credential_pb2, delegation_pb2, principal_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceServicer
from services.auth.domain import CredentialPurpose, ExecutionIdentity, OnCredentialExpiry
from services.auth.keys.signing import SigningKeys
from services.auth.servicers.convert import principal_message, timestamp
from services.auth.usecases.credentials import Credentials
from services.auth.usecases.delegations import Delegations
from services.auth.usecases.exchange import Exchange
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.handler import Context
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

    async def WhoAmI(self, request: principal_pb2.WhoAmIRequest, context: Context) -> principal_pb2.WhoAmIResponse:
        """See the proto."""
        call = current_call()
        if call.principal is not None:
            principal, roles = call.principal, await self._exchange.groups_of(call.principal)
        else:
            principal, roles = await self._exchange.who_am_i(call.credential, call.group_header)
        groups = [principal_pb2.GroupMembership(group_id=group_id, role=int(role)) for group_id, role in roles.items()]  # type: ignore[arg-type]
        return principal_pb2.WhoAmIResponse(principal=principal_message(principal), groups=groups)

    async def ExchangeToken(
        self, request: principal_pb2.ExchangeTokenRequest, context: Context
    ) -> principal_pb2.ExchangeTokenResponse:
        """See the proto."""
        credential = Credential(request.authorization, request.forwarded_access_token)
        principal = await self._exchange.exchange(credential, request.group_id)
        return principal_pb2.ExchangeTokenResponse(
            principal_token=principal.token, principal=principal_message(principal)
        )

    async def GetJwks(self, request: principal_pb2.GetJwksRequest, context: Context) -> principal_pb2.GetJwksResponse:
        """See the proto."""
        keys = [
            principal_pb2.JsonWebKey(
                kid=kid,
                kty="OKP",
                alg="EdDSA",
                crv="Ed25519",
                x=base64.urlsafe_b64encode(key.public_bytes_raw()).rstrip(b"=").decode(),
                use="sig",
            )
            for kid, key in self._signing_keys.published.items()
        ]
        return principal_pb2.GetJwksResponse(keys=keys, max_age=Duration(seconds=self._jwks_max_age_seconds))

    async def ExplainCredential(
        self, request: credential_pb2.ExplainCredentialRequest, context: Context
    ) -> credential_pb2.ExplainCredentialResponse:
        """See the proto."""
        links, origin = await self._credentials.explain(
            current_principal(), CredentialPurpose(request.purpose), request.destination_origin, request.provider
        )
        explained = [
            credential_pb2.LinkExplanation(link=link.link, outcome=int(link.outcome), detail=link.detail)  # type: ignore[arg-type]
            for link in links
        ]
        return credential_pb2.ExplainCredentialResponse(
            links=explained, resolvable=origin is not None, origin=origin or ""
        )

    async def ResolveCredential(
        self, request: credential_pb2.ResolveCredentialRequest, context: Context
    ) -> credential_pb2.ResolveCredentialResponse:
        """See the proto."""
        credential = await self._credentials.resolve(
            current_principal(), CredentialPurpose(request.purpose), request.destination_origin, request.provider
        )
        return credential_pb2.ResolveCredentialResponse(
            token=credential.token,
            origin=credential.origin,
            link=credential.link,
            expire_time=timestamp(credential.expires_at),
            on_behalf_of_user=credential.on_behalf_of_user,
        )

    async def CreateDelegation(
        self, request: delegation_pb2.CreateDelegationRequest, context: Context
    ) -> delegation_pb2.CreateDelegationResponse:
        """See the proto."""
        grant = await self._delegations.delegate(
            current_principal(),
            request.execution_id,
            ExecutionIdentity(request.identity),
            OnCredentialExpiry(request.on_credential_expiry or OnCredentialExpiry.PARK),
        )
        return delegation_pb2.CreateDelegationResponse(grant_id=grant.id, identity=int(grant.identity))  # type: ignore[arg-type]

    async def IssueExecutionPrincipal(
        self, request: delegation_pb2.IssueExecutionPrincipalRequest, context: Context
    ) -> delegation_pb2.IssueExecutionPrincipalResponse:
        """See the proto."""
        principal = await self._delegations.issue(request.grant_id, request.execution_id)
        return delegation_pb2.IssueExecutionPrincipalResponse(
            principal_token=principal.token, principal=principal_message(principal)
        )

    async def RenewDelegation(
        self, request: delegation_pb2.RenewDelegationRequest, context: Context
    ) -> delegation_pb2.RenewDelegationResponse:
        """See the proto."""
        expires_at = await self._delegations.renew(current_principal(), request.execution_id)
        return delegation_pb2.RenewDelegationResponse(expire_time=timestamp(expires_at))

    async def RevokeDelegation(
        self, request: delegation_pb2.RevokeDelegationRequest, context: Context
    ) -> delegation_pb2.RevokeDelegationResponse:
        """See the proto."""
        await self._delegations.revoke(request.execution_id)
        return delegation_pb2.RevokeDelegationResponse()
