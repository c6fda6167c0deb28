"""SecretService at the edge."""

from collections.abc import AsyncIterator

from coxswain.auth.v1 import secret_service_pb2 as pb
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceServicer
from services.auth.domain import Secret
from services.auth.servicers.convert import timestamp
from services.auth.usecases.secrets import Secrets
from services.common.grpc.call import current_principal
from services.common.grpc.pipeline import Context


class SecretServicer(SecretServiceServicer):
    """A group's own credentials."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def PutSecret(self, request: pb.PutSecretRequest, context: Context) -> pb.PutSecretResponse:
        """See the proto."""
        secret = await self._secrets.put(
            current_principal().group_id, request.name, request.value, request.allowed_origins
        )
        return pb.PutSecretResponse(secret=_message(secret))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Context) -> pb.ListSecretsResponse:
        """See the proto."""
        found, token = await self._secrets.page(current_principal().group_id, request.page_size, request.page_token)
        return pb.ListSecretsResponse(secrets=map(_message, found), next_page_token=token)

    async def DeleteSecret(self, request: pb.DeleteSecretRequest, context: Context) -> pb.DeleteSecretResponse:
        """See the proto."""
        await self._secrets.delete(current_principal().group_id, request.name)
        return pb.DeleteSecretResponse()

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> AsyncIterator[pb.RotateKeyResponse]:
        """See the proto."""
        async for progress, key_id in self._secrets.rotate():
            yield pb.RotateKeyResponse(done=progress.done, total=progress.total, key_id=key_id)


def _message(secret: Secret) -> pb.Secret:
    return pb.Secret(
        name=secret.name,
        fingerprint=secret.fingerprint,
        allowed_origins=secret.allowed_origins,
        key_id=secret.sealed.key_id,
        create_time=timestamp(secret.created_at),
        update_time=timestamp(secret.updated_at),
    )
