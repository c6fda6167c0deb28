"""A credential that an admin of the group has stored."""

from services.auth.chains.link import Answer, CredentialRequest, for_destination
from services.auth.keys import bindings
from services.auth.keys.vault import Vault
from services.auth.repositories.secrets import read_secret
from services.common.db.database import Database


class StoredSecretLink:
    """One secret of the caller's group, by a name that may hold what the request says: `llm/{provider}`."""

    name = "stored_secret"

    def __init__(self, secret_name: str, database: Database, vault: Vault) -> None:
        self._secret_name = secret_name
        self._database = database
        self._vault = vault

    async def ask(self, request: CredentialRequest) -> Answer:
        """Return the group's secret; see `Link`."""
        name = self._secret_name.format(provider=request.provider, secret_name=request.secret_name)
        secret = await read_secret(self._database, request.principal.group_id, name)
        if secret is None:
            return Answer.absent(f'your group has no secret "{name}"; an admin can store one with PutSecret')
        token = self._vault.open(bindings.secret(secret), secret.sealed).decode()
        answer = Answer.used(f'the group\'s secret "{name}", fingerprint {secret.fingerprint}', token, "")
        return for_destination(answer, secret.allowed_origins, request.destination)
