"""OAuth client credentials (RFC 6749, section 4.4) of a service principal: the group's own, else the operator's."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from services.auth.chains.environment import SharedGroups
from services.auth.chains.link import Answer, CredentialRequest, for_destination
from services.auth.chains.stored_secret import StoredSecretLink
from services.auth.chains.token_cache import IssuedToken, NoTokenError, TokenCache
from services.auth.domain import LinkOutcome
from services.auth.http import HttpAnswer, JsonClient, unavailable
from services.auth.identity.databricks import discovery_url
from services.common.clock import utc_now
from services.common.egress import origin_of

_OK, _SERVER_ERRORS, _TOO_MANY = 200, 500, 429
_SCOPE = "all-apis"
_DEFAULT_LIFETIME = 3600
_MAX_LIFETIME = 24 * 3600


@dataclass(frozen=True, slots=True)
class Client:
    """A service principal of one workspace."""

    host: str
    """The workspace's origin."""
    client_id: str
    client_secret: str = field(repr=False)
    operator: bool = False
    """Whether it is the operator's, whose addresses are trusted."""

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """What a token is remembered by, without the secret."""
        return self.host, self.client_id, hashlib.sha256(self.client_secret.encode()).hexdigest(), self.operator


class ClientCredentials:
    """Gets tokens for service principals."""

    def __init__(self, http: JsonClient, *, refused: timedelta) -> None:
        self._http = http
        self._tokens: TokenCache[tuple[str, str, str, bool]] = TokenCache(refused=refused)

    async def token(self, client: Client) -> IssuedToken:
        """Return a token that is good for 40 s at least.

        Raises:
            NoTokenError: the workspace refuses the client.
            PermissionDenied: DESTINATION_NOT_ALLOWED, the group's workspace is at an address it may not choose.
            Unavailable: the workspace does not answer.
        """
        return await self._tokens.get(client.key, lambda: self._issue(client))

    async def _issue(self, client: Client) -> IssuedToken:
        url = discovery_url(client.host)
        found = await self._http.get(url, trusted=client.operator)
        if found.status != _OK:
            raise unavailable(url, f"answered discovery with HTTP status {found.status}")
        endpoint = found.document.get("token_endpoint")
        if not isinstance(endpoint, str) or origin_of(endpoint) != client.host:
            raise NoTokenError(
                Answer.rejected(f"{client.host} names a token endpoint of another origin; the secret was not sent")
            )
        answer = await self._http.post_form(
            endpoint,
            {"grant_type": "client_credentials", "scope": _SCOPE},
            user=client.client_id,
            password=client.client_secret,
            trusted=client.operator,
        )
        if answer.status == _TOO_MANY or answer.status >= _SERVER_ERRORS:
            raise unavailable(endpoint, f"answered with HTTP status {answer.status}")
        if answer.status != _OK:
            raise NoTokenError(
                Answer.rejected(
                    f"{client.host} refuses the OAuth client {client.client_id}: "
                    "check that it exists there, and its secret"
                )
            )
        return _issued(answer, endpoint)

    async def close(self) -> None:
        """Stop asking."""
        await self._tokens.close()


def _issued(answer: HttpAnswer, endpoint: str) -> IssuedToken:
    token, lifetime = answer.document.get("access_token"), answer.document.get("expires_in", _DEFAULT_LIFETIME)
    if not isinstance(token, str) or not token or not isinstance(lifetime, int | float):
        raise unavailable(endpoint, "answered without a token")
    return IssuedToken(token, utc_now() + timedelta(seconds=min(lifetime, _MAX_LIFETIME)))


class OAuthClientLink:
    """Absent when neither the group nor, for it, the operator has an OAuth client."""

    name = "oauth_client"

    def __init__(
        self,
        credentials: ClientCredentials,
        stored: StoredSecretLink,
        shared: SharedGroups,
        environment: Mapping[str, str],
    ) -> None:
        """`stored` finds the group's own client."""
        self._credentials = credentials
        self._stored = stored
        self._shared = shared
        self._operators = _operators_client(environment)

    async def ask(self, request: CredentialRequest) -> Answer:
        """Return a token of the client; see `Link`."""
        found = await self._stored.ask(request)
        if found.outcome is LinkOutcome.USED:
            document = json.loads(found.token)
            client = Client(found.origin, document["client_id"], document["client_secret"])
            return await self._token(client, found.detail, request)
        if found.outcome is not LinkOutcome.ABSENT:
            return found
        if self._operators is None:
            return Answer.absent(f"{found.detail}; and the operator has set none in the environment")
        if request.principal.group_id not in self._shared:
            return Answer.absent(f"{found.detail}; {self._shared.absent}")
        if request.destination not in ("", self._operators.host):
            # The operator's client belongs to another workspace: the group's own links decide.
            return Answer.absent(f"{found.detail}; and the operator's belongs to {self._operators.host}")
        return await self._token(self._operators, "DATABRICKS_CLIENT_ID", request)

    async def _token(self, client: Client, detail: str, request: CredentialRequest) -> Answer:
        try:
            issued = await self._credentials.token(client)
        except NoTokenError as refusal:
            return refusal.answer
        answer = Answer.used(
            f"a token for the OAuth client in {detail}", issued.token, client.host, expires_at=issued.expires_at
        )
        return for_destination(answer, (client.host,), request.destination)


def _operators_client(environment: Mapping[str, str]) -> Client | None:
    host = origin_of(environment.get("DATABRICKS_HOST", ""))
    client_id, secret = (environment.get(f"DATABRICKS_CLIENT_{part}", "").strip() for part in ("ID", "SECRET"))
    return Client(host, client_id, secret, operator=True) if host and client_id and secret else None
