"""The chain of each purpose."""

from collections.abc import Mapping
from datetime import timedelta

from services.auth.chains import names
from services.auth.chains.chain import Chain
from services.auth.chains.environment import EnvironmentLink, SharedGroups, read_providers
from services.auth.chains.oauth_client import ClientCredentials, OAuthClientLink
from services.auth.chains.sdk_default import SdkDefaultLink
from services.auth.chains.stored_secret import StoredSecretLink
from services.auth.chains.user_token import UserTokenLink
from services.auth.domain import CredentialPurpose
from services.auth.http import JsonClient
from services.auth.identity.sessions import SessionStore
from services.auth.keys.vault import Vault
from services.auth.settings import AuthSettings
from services.common.db.database import Database

_REFUSED = timedelta(seconds=5)


class Chains:
    """All chains, and what their links keep open."""

    def __init__(
        self,
        settings: AuthSettings,
        shared: SharedGroups,
        environment: Mapping[str, str],
        *,
        database: Database,
        vault: Vault,
        sessions: SessionStore,
        http: JsonClient,
    ) -> None:
        """
        Raises:
            ValueError: the providers file cannot be used.
        """

        def stored(secret_name: str) -> StoredSecretLink:
            return StoredSecretLink(secret_name, database, vault)

        self._client_credentials = ClientCredentials(http, refused=_REFUSED)
        self._sdk_default = SdkDefaultLink(shared, environment, timeout_seconds=settings.sdk_timeout_seconds)
        user_token = UserTokenLink(sessions)
        oauth_client = OAuthClientLink(self._client_credentials, stored(names.OAUTH_CLIENT), shared, environment)
        operators = EnvironmentLink(shared, read_providers(settings.providers_file), environment)
        self.by_purpose: Mapping[CredentialPurpose, Chain] = {
            CredentialPurpose.DATABRICKS: Chain(
                [user_token, oauth_client, stored(names.DATABRICKS_API_KEY), operators]
            ),
            CredentialPurpose.VECTOR_SEARCH: Chain(
                [user_token, stored(names.DATABRICKS_PAT), operators, self._sdk_default]
            ),
            CredentialPurpose.LLM_PROVIDER: Chain([stored(names.LLM_KEY), operators]),
            CredentialPurpose.TOOL: Chain([stored(names.TOOL_SECRET)]),
            CredentialPurpose.TOOL_CALLER: Chain([UserTokenLink(sessions, settings.obo_origins)]),
            CredentialPurpose.POSTGRESQL: Chain([stored(names.POSTGRESQL_SECRET), operators]),
        }

    async def close(self) -> None:
        """End what links do in the background."""
        await self._client_credentials.close()
        await self._sdk_default.close()
