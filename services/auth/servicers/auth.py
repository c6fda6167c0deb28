"""AuthService at the edge."""

from google.protobuf.duration_pb2 import Duration

from coxswain.auth.v1 import access_change_pb2, credential_pb2, delegation_pb2, group_limits_pb2, principal_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceServicer
from services.auth.keys.signing import SigningKeys
from services.auth.servicers.messages import (
    access_change_to_proto,
    credential_to_proto,
    expiry_from_proto,
    explanation_to_proto,
    grant_to_proto,
    identity_from_proto,
    key_to_proto,
    membership_to_proto,
    principal_to_proto,
    reference_from_proto,
)
from services.auth.servicers.traffic_messages import shared_to_proto, traffic_from_proto
from services.auth.usecases.access import Access
from services.auth.usecases.credentials import Credentials
from services.auth.usecases.delegations import Delegations
from services.auth.usecases.group_limits import LimitsOfGroups
from services.auth.usecases.group_traffic import SharedGroupTraffic
from services.auth.usecases.principals import Principals
from services.common.grpc.call import current_call, current_principal
from services.common.grpc.handler import Context
from services.common.grpc.limit_messages import limits_to_proto
from services.common.grpc.times import optional_timestamp_from_proto, timestamp_to_proto
from services.common.identity.authenticator import Credential


class AuthServicer(AuthServiceServicer):
    """Identity, outbound credentials and grants."""

    def __init__(
        self,
        principals: Principals,
        credentials: Credentials,
        delegations: Delegations,
        signing_keys: SigningKeys,
        limits: LimitsOfGroups,
        traffic: SharedGroupTraffic,
        access: Access,
        *,
        jwks_max_age_seconds: int,
    ) -> None:
        self._principals = principals
        self._credentials = credentials
        self._delegations = delegations
        self._signing_keys = signing_keys
        self._limits = limits
        self._traffic = traffic
        self._access = access
        self._jwks_max_age_seconds = jwks_max_age_seconds

    async def WhoAmI(self, request: principal_pb2.WhoAmIRequest, context: Context) -> principal_pb2.WhoAmIResponse:
        """See the proto."""
        call = current_call()
        principal, standing = await self._principals.who_am_i(call.principal, call.credential, call.group_header)
        return principal_pb2.WhoAmIResponse(
            principal=principal_to_proto(principal),
            groups=[membership_to_proto(group_id, role) for group_id, role in standing.roles.items()],
            invitations=[membership_to_proto(group_id, role) for group_id, role in standing.invitations.items()],
        )

    async def ExchangeToken(
        self, request: principal_pb2.ExchangeTokenRequest, context: Context
    ) -> principal_pb2.ExchangeTokenResponse:
        """See the proto."""
        credential = Credential(request.authorization, request.forwarded_access_token)
        principal = await self._principals.exchange(credential, request.group_id)
        return principal_pb2.ExchangeTokenResponse(
            principal_token=principal.token, principal=principal_to_proto(principal)
        )

    async def GetJwks(self, request: principal_pb2.GetJwksRequest, context: Context) -> principal_pb2.GetJwksResponse:
        """See the proto."""
        keys = [key_to_proto(kid, key) for kid, key in self._signing_keys.published.items()]
        return principal_pb2.GetJwksResponse(keys=keys, max_age=Duration(seconds=self._jwks_max_age_seconds))

    async def ListAccessChanges(
        self, request: access_change_pb2.ListAccessChangesRequest, context: Context
    ) -> access_change_pb2.ListAccessChangesResponse:
        """See the proto."""
        since = optional_timestamp_from_proto(request, "since_time")
        page = await self._access.page(since, request.page_size, request.page_token)
        return access_change_pb2.ListAccessChangesResponse(
            changes=map(access_change_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def ExplainCredential(
        self, request: credential_pb2.ExplainCredentialRequest, context: Context
    ) -> credential_pb2.ExplainCredentialResponse:
        """See the proto."""
        explanation = await self._credentials.explain(current_principal(), reference_from_proto(request))
        return explanation_to_proto(explanation)

    async def ExplainCredentials(
        self, request: credential_pb2.ExplainCredentialsRequest, context: Context
    ) -> credential_pb2.ExplainCredentialsResponse:
        """See the proto."""
        references = list(map(reference_from_proto, request.credentials))
        explanations = await self._credentials.explain_all(current_principal(), references)
        return credential_pb2.ExplainCredentialsResponse(explanations=map(explanation_to_proto, explanations))

    async def ResolveCredential(
        self, request: credential_pb2.ResolveCredentialRequest, context: Context
    ) -> credential_pb2.ResolveCredentialResponse:
        """See the proto."""
        credential = await self._credentials.resolve(current_principal(), reference_from_proto(request))
        return credential_to_proto(credential)

    async def CreateDelegation(
        self, request: delegation_pb2.CreateDelegationRequest, context: Context
    ) -> delegation_pb2.CreateDelegationResponse:
        """See the proto."""
        grant = await self._delegations.create(
            current_principal(),
            request.execution_id,
            identity_from_proto(request.identity),
            expiry_from_proto(request.on_credential_expiry),
        )
        return grant_to_proto(grant)

    async def IssueExecutionPrincipal(
        self, request: delegation_pb2.IssueExecutionPrincipalRequest, context: Context
    ) -> delegation_pb2.IssueExecutionPrincipalResponse:
        """See the proto."""
        principal = await self._delegations.issue(request.grant_id, request.execution_id)
        return delegation_pb2.IssueExecutionPrincipalResponse(
            principal_token=principal.token,
            principal=principal_to_proto(principal),
            limits=limits_to_proto(principal.limits),
        )

    async def RenewDelegation(
        self, request: delegation_pb2.RenewDelegationRequest, context: Context
    ) -> delegation_pb2.RenewDelegationResponse:
        """See the proto."""
        expires_at = await self._delegations.renew(current_principal(), request.execution_id)
        return delegation_pb2.RenewDelegationResponse(expire_time=timestamp_to_proto(expires_at))

    async def RevokeDelegation(
        self, request: delegation_pb2.RevokeDelegationRequest, context: Context
    ) -> delegation_pb2.RevokeDelegationResponse:
        """See the proto."""
        await self._delegations.revoke(request.execution_id)
        return delegation_pb2.RevokeDelegationResponse()

    async def ShareGroupTraffic(
        self, request: group_limits_pb2.ShareGroupTrafficRequest, context: Context
    ) -> group_limits_pb2.ShareGroupTrafficResponse:
        """See the proto."""
        shared = await self._traffic.share_traffic(
            request.process_id, request.sequence, traffic_from_proto(request.groups)
        )
        return group_limits_pb2.ShareGroupTrafficResponse(groups=shared_to_proto(shared))

    async def GetLimitsOfGroups(
        self, request: group_limits_pb2.GetLimitsOfGroupsRequest, context: Context
    ) -> group_limits_pb2.GetLimitsOfGroupsResponse:
        """See the proto."""
        limits = [limits_to_proto(await self._limits.of(group_id)) for group_id in request.group_ids]
        return group_limits_pb2.GetLimitsOfGroupsResponse(limits=limits)
