"""Identity of a Databricks workspace: its OAuth tokens, and opaque tokens, which the workspace verifies."""

from datetime import timedelta

from services.auth.domain import VerifiedIdentity
from services.auth.http import HttpAnswer, JsonClient, unavailable
from services.auth.identity.oidc import MAX_TOKEN_BYTES, JwtVerifier, looks_like_jwt
from services.auth.identity.verifier import bearer_token, expired, rejected
from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind

_ME = "/api/2.0/preview/scim/v2/Me"
_DISCOVERY = "/oidc/.well-known/oauth-authorization-server"
_OK, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN = 200, 400, 401, 403


def discovery_url(host: str) -> str:
    """Return where a workspace says who its issuer is; `host` is an origin."""
    return f"{host}{_DISCOVERY}"


class ScimMe:
    """Asks a workspace whom a token stands for; the operator switches it on, as it costs a call."""

    def __init__(self, http: JsonClient, host: str, *, session: timedelta) -> None:
        """`host` is the workspace's origin; opaque tokens do not state their expiry and are kept for `session`."""
        self._http = http
        self._host = host
        self._session = session

    async def verify_token(self, token: str) -> VerifiedIdentity:
        """Return whom a bare token stands for; raises as `IdentityVerifier.verify`."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable():
            raise rejected("the token is not a token of this workspace")
        answer = await self._http.get(f"{self._host}{_ME}", bearer=token)
        if answer.status != _OK:
            raise self._refusal(answer)
        user_name, active = answer.document.get("userName"), answer.document.get("active", True)
        if not isinstance(user_name, str) or not user_name:
            raise unavailable(self._host, "does not say whom the token stands for")
        if active is not True:
            raise rejected("the user of the token is not active")
        return VerifiedIdentity(
            subject=f"{self._host}/oidc|{user_name}",
            kind=CredentialKind.USER,
            expires_at=utc_now() + self._session,
            origin=self._host,
        )

    def _refusal(self, answer: HttpAnswer) -> CoxswainError:
        message = str(answer.document.get("message", ""))
        # The platform has several ways to say that a token is past its time.
        if answer.status in (_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN) and _says_expired(message):
            return expired()
        if answer.status in (_UNAUTHORIZED, _FORBIDDEN):
            return rejected("the workspace refuses the token")
        return unavailable(self._host, f"answered with HTTP status {answer.status}")


class DatabricksVerifier:
    """Workspace tokens are verified by the workspace's keys, opaque ones by SCIM where that is switched on."""

    def __init__(self, tokens: JwtVerifier, scim: ScimMe | None) -> None:
        self._tokens = tokens
        self._scim = scim

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a credential stands for; see `IdentityVerifier`."""
        token = bearer_token(credential)
        if looks_like_jwt(token):
            return await self._tokens.verify_token(token)
        if self._scim is None:
            raise rejected(
                "opaque tokens are not accepted here: send an OAuth token of the workspace "
                "(or let the operator set COXSWAIN_AUTH_DATABRICKS_SCIM=true)"
            )
        return await self._scim.verify_token(token)


def _says_expired(message: str) -> bool:
    lowered = message.lower()
    return "expired" in lowered or "expiring" in lowered
