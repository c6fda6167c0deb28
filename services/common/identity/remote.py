"""Identity as auth gives it to the other services."""

import base64
from collections.abc import Callable, Mapping, Sequence

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coxswain.auth.v1 import access_change_pb2, auth_service_pb2_grpc, group_limits_pb2, principal_pb2
from services.common.grpc.call import outlast_caller
from services.common.grpc.group_traffic import SharedTraffic, Traffic
from services.common.grpc.status import from_rpc_error
from services.common.identity.access_changes import AccessChange
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal
from services.common.identity.principal_token import PrincipalVerifier


class RemoteIdentity:
    """Exchanges credentials and reads keys over auth's interface."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        self.verifier = PrincipalVerifier(self)
        """Verifies what auth signed, with the keys read here."""

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        """Return the principal of a caller; see `TokenExchanger`."""
        # An authenticator waits for it in a task of its own, with all callers that came with the same credential.
        outlast_caller()
        request = principal_pb2.ExchangeTokenRequest(group_id=group_id)
        if credential.forwarded_access_token:
            request.forwarded_access_token = credential.forwarded_access_token
        elif credential.authorization:
            request.authorization = credential.authorization
        try:
            response = await self._stub.ExchangeToken(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        return await self.verifier.verify(response.principal_token)

    async def access_changes(self, since: float) -> Sequence[AccessChange]:
        """Return whose access has changed lately; see `AccessChangeSource`."""
        request = access_change_pb2.ListAccessChangesRequest()
        if since:
            request.since_time.FromMicroseconds(round(since * 1e6))
        changes: list[AccessChange] = []
        while True:
            try:
                response = await self._stub.ListAccessChanges(request)
            except grpc.RpcError as error:
                raise from_rpc_error(error, "auth") from error
            changes += map(_access_change, response.changes)
            request.page_token = response.next_page_token
            if not request.page_token:
                return changes

    async def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Return the keys principals are signed with; see `KeySource`."""
        try:
            response = await self._stub.GetJwks(principal_pb2.GetJwksRequest())
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        return {
            key.kid: Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key.x + "=" * (-len(key.x) % 4)))
            for key in response.keys
        }

    async def share_traffic(
        self, process_id: str, sequence: int, traffic: Sequence[Traffic]
    ) -> Sequence[SharedTraffic]:
        """Tell auth of the calls and streams of groups; see `TrafficShare`."""
        groups = [
            group_limits_pb2.GroupTraffic(group_id=each.group_id, calls=each.calls, open_streams=each.open_streams)
            for each in traffic
        ]
        try:
            response = await self._stub.ShareGroupTraffic(
                group_limits_pb2.ShareGroupTrafficRequest(process_id=process_id, sequence=sequence, groups=groups)
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        return [
            SharedTraffic(each.calls_left if each.HasField("calls_left") else None, each.other_streams)
            for each in response.groups
        ]

    def on_changed_limits(self, act: Callable[[str], None]) -> None:
        """Do nothing: another process changes them."""


def _access_change(message: access_change_pb2.AccessChange) -> AccessChange:
    return AccessChange(
        message.subject,
        message.group_id,
        message.change_time.ToMicroseconds() / 1e6,
        message.revoke_time.ToMicroseconds() / 1e6,
    )
