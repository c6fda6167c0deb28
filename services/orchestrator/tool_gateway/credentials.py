"""The headers that authenticate requests to sources: resolved by auth, for one origin, held for one request."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import grpc

from coxswain.auth.v1 import auth_service_pb2_grpc, credential_pb2
from services.common.bounded_json import parse_json
from services.common.cache import AsyncCache
from services.common.egress import required_origin
from services.common.errors import CoxswainError, DeadlineExceeded, Unavailable
from services.common.grpc.call import acting_as
from services.common.grpc.status import from_rpc_error
from services.common.http import EgressClient, read_limited
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import AuthKind, SourceAuth, ToolSourceSpec
from services.orchestrator.tool_gateway.acting import ActingPrincipal
from services.orchestrator.tool_gateway.ports import CallRefused, CredentialExpired, NotSent

_TOKENS = 1000
_MARGIN_SECONDS = 40.0
_DEFAULT_LIFETIME_SECONDS = 3600.0
_LONGEST_LIFETIME_SECONDS = 24 * 3600.0
_TOKEN_ANSWER_BYTES = 256 * 1024
_TOKEN_SECONDS = 20.0
_OK, _TOO_MANY, _SERVER_ERRORS = 200, 429, 500

SECRET_PREFIX = "tools/"
"""Names of secrets that tools may use begin so."""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    good_until: float


@dataclass(frozen=True, slots=True)
class WorkspaceCredential:
    """A token, and the origin of the only Databricks workspace that it may be sent to."""

    origin: str
    token: str = field(repr=False)


class SourceCredentials:
    """Credentials of sources, and of the gateway's own tools."""

    def __init__(
        self, auth: "auth_service_pb2_grpc.AuthServiceAsyncStub", acting: ActingPrincipal, egress: EgressClient
    ) -> None:
        self._auth = auth
        self._acting = acting
        self._egress = egress
        self._tokens: AsyncCache[tuple[str, str, str], _Token] = AsyncCache(
            _TOKENS, lambda token: token.good_until - time.time() - _MARGIN_SECONDS, clock=time.time
        )

    async def headers(self, source: ToolSourceSpec, principal: Principal, url: str) -> dict[str, str]:
        """Return the headers that authenticate one request of a source to the origin of `url`, and to no other one.

        Raises:
            CallRefused: CREDENTIAL_..., there is no credential, or it may not be sent there.
            NotSent: auth, or the issuer of the token, does not answer.
            PermissionDenied: DESTINATION_NOT_ALLOWED, the address has no origin.
        """
        auth, origin = source.auth, required_origin(url)
        match auth.kind:
            case AuthKind.NONE:
                return {}
            case AuthKind.SECRET:
                secret = await self.secret(principal, _secret_name(source), origin)
                return {auth.header.lower(): _header_value(auth.prefix + secret)}
            case AuthKind.OAUTH_CLIENT:
                token = await self._oauth_token(source, principal)
            case AuthKind.CALLER:
                token = await self.resolve(principal, credential_pb2.CREDENTIAL_PURPOSE_TOOL_CALLER, origin)
            case _:
                token = await self.resolve(principal, credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS, origin)
        return {"authorization": _header_value(f"Bearer {token}")}

    async def check(self, source: ToolSourceSpec, principal: Principal) -> None:
        """Raise as `headers` does unless the group has the secret of a source, bound to where the source sends it.

        Sources that act as their caller have none of the group's own.
        """
        match source.auth.kind:
            case AuthKind.SECRET:
                for url in source.addresses:
                    await self.secret(principal, _secret_name(source), required_origin(url))
            case AuthKind.OAUTH_CLIENT if source.auth.token_url:
                await self.secret(principal, _secret_name(source), required_origin(source.auth.token_url))
            case _:
                pass

    async def secret(self, principal: Principal, name: str, origin: str) -> str:
        """Return a secret of the principal's group that may be sent to an origin; see `headers` for what is raised."""
        return await self.resolve(principal, credential_pb2.CREDENTIAL_PURPOSE_TOOL, origin, secret_name=name)

    async def resolve(
        self,
        principal: Principal,
        purpose: "credential_pb2.CredentialPurpose.ValueType",
        origin: str,
        *,
        secret_name: str = "",
    ) -> str:
        """Return what auth has for a purpose and exactly this origin; see `headers` for what is raised."""
        request = credential_pb2.ResolveCredentialRequest(
            purpose=purpose, destination_origin=origin, secret_name=secret_name
        )
        response = await self._ask(principal, request)
        if response.origin != origin:
            raise CallRefused(
                f"the credential belongs to {response.origin}, not to {origin}", reason="DESTINATION_NOT_ALLOWED"
            )
        return response.token

    async def workspace(self, principal: Principal) -> WorkspaceCredential:
        """Return a token of the general Databricks chain with its workspace; see `headers` for what is raised."""
        request = credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
        response = await self._ask(principal, request)
        return WorkspaceCredential(required_origin(response.origin), _header_value(response.token))

    def forget(self, source: ToolSourceSpec, principal: Principal) -> None:
        """Ask for a new token the next time: the source has refused the one that it was sent."""
        self._tokens.forget_where(lambda key: key[:2] == (principal.group_id, source.name))

    async def close(self) -> None:
        """End what is being asked for."""
        await self._tokens.close()

    async def _ask(
        self, principal: Principal, request: credential_pb2.ResolveCredentialRequest
    ) -> credential_pb2.ResolveCredentialResponse:
        try:
            with acting_as(await self._acting.token(principal)):
                return await self._auth.ResolveCredential(request)
        except grpc.RpcError as error:
            raise _not_resolved(from_rpc_error(error, "auth")) from error
        except CoxswainError as error:
            raise _not_resolved(error) from error

    async def _oauth_token(self, source: ToolSourceSpec, principal: Principal) -> str:
        auth = source.auth
        # Another client, scope or issuer is another token.
        shape = json.dumps([auth.token_url, auth.client_id, _secret_name(source), auth.scopes, auth.resource])
        key = (principal.group_id, source.name, hashlib.sha256(shape.encode()).hexdigest())
        return (await self._tokens.get(key, lambda: self._issue(source, principal))).value

    async def _issue(self, source: ToolSourceSpec, principal: Principal) -> _Token:
        """Ask the issuer for a token with client credentials (RFC 6749, section 4.4)."""
        auth = source.auth
        origin = required_origin(auth.token_url)
        secret = await self.secret(principal, _secret_name(source), origin)
        form = {"grant_type": "client_credentials", "client_id": auth.client_id, "client_secret": secret}
        form |= {"scope": " ".join(auth.scopes)} if auth.scopes else {}
        form |= {"resource": auth.resource} if auth.resource else {}
        status, document = await self._post(auth, form)
        if status == _TOO_MANY or status >= _SERVER_ERRORS:
            raise NotSent(f"{origin} answered a request for a token with HTTP status {status}")
        token, lifetime = document.get("access_token"), document.get("expires_in", _DEFAULT_LIFETIME_SECONDS)
        if status != _OK or not isinstance(token, str) or not token or isinstance(lifetime, bool):
            raise CallRefused(
                f"{origin} gives no token to the OAuth client {auth.client_id}; check the client and its secret "
                f"{_secret_name(source)}",
                reason="CREDENTIAL_REJECTED",
            )
        seconds = float(lifetime) if isinstance(lifetime, int | float) else _DEFAULT_LIFETIME_SECONDS
        return _Token(token, time.time() + max(0.0, min(seconds, _LONGEST_LIFETIME_SECONDS)))

    async def _post(self, auth: SourceAuth, form: Mapping[str, str]) -> tuple[int, Mapping[str, object]]:
        origin = required_origin(auth.token_url)
        try:
            response = await self._egress.request(
                "POST",
                auth.token_url,
                trusted=False,
                data=form,
                headers={"accept": "application/json"},
                total_timeout=_TOKEN_SECONDS,
            )
            try:
                body = await read_limited(response, _TOKEN_ANSWER_BYTES)
            finally:
                response.close()
        except CoxswainError as error:
            raise CallRefused(error.message, reason=error.reason) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotSent(f"{origin}, which issues tokens, did not answer: {type(error).__name__}") from error
        try:
            document = await parse_json(body or b"")
        except ValueError:
            document = None
        return response.status, document if isinstance(document, dict) else {}


def _secret_name(source: ToolSourceSpec) -> str:
    return source.auth.secret_name or f"{SECRET_PREFIX}{source.name}"


def _header_value(text: str) -> str:
    """Return a value that is one line of visible characters.

    Raises:
        CallRefused: CREDENTIAL_REJECTED, it is not.
    """
    if not text.isascii() or not text.isprintable():
        raise CallRefused(
            "the credential holds characters that no header may hold, such as a line break; store it again",
            reason="CREDENTIAL_REJECTED",
        )
    return text


def _not_resolved(error: CoxswainError) -> Exception:
    if isinstance(error, Unavailable | DeadlineExceeded):
        return NotSent(error.message)
    if error.reason == "CREDENTIAL_EXPIRED":
        return CredentialExpired(error.message)
    return CallRefused(error.message, reason=error.reason)
