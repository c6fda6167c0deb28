"""SecretService at the edge."""

from collections.abc import AsyncIterator

from coxswain.auth.v1 import secret_pb2
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceServicer
from services.auth.servicers.messages import progress_to_proto, secret_to_proto
from services.auth.usecases.secrets import Secrets
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context


class SecretServicer(SecretServiceServicer):
    """A group's own credentials."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def PutSecret(self, request: secret_pb2.PutSecretRequest, context: Context) -> secret_pb2.PutSecretResponse:
        """See the proto."""
        principal = current_principal()
        secret = await self._secrets.put(
            principal.group_id,
            request.name,
            request.value,
            request.allowed_origins,
            limit=principal.limits.max_secrets,
        )
        return secret_pb2.PutSecretResponse(secret=secret_to_proto(secret))

    async def ListSecrets(
        self, request: secret_pb2.ListSecretsRequest, context: Context
    ) -> secret_pb2.ListSecretsResponse:
        """See the proto."""
        page = await self._secrets.page(current_principal().group_id, request.page_size, request.page_token)
        return secret_pb2.ListSecretsResponse(
            secrets=map(secret_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def DeleteSecret(
        self, request: secret_pb2.DeleteSecretRequest, context: Context
    ) -> secret_pb2.DeleteSecretResponse:
        """See the proto."""
        await self._secrets.delete(current_principal().group_id, request.name)
        return secret_pb2.DeleteSecretResponse()

    async def RotateKey(
        self, request: secret_pb2.RotateKeyRequest, context: Context
    ) -> AsyncIterator[secret_pb2.RotateKeyResponse]:
        """See the proto."""
        async for progress in self._secrets.rotate():
            yield progress_to_proto(progress)
