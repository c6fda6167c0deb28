"""Databricks identity on loopback: discovery, signing keys, OAuth tokens, personal access tokens, SCIM Me.

    with DatabricksIdentity() as identity:
        ann = identity.add_user("ann@example.com")
        pat = identity.add_pat(ann)
        obo = identity.mint(ann, scopes={"vector-search"}, client_id="app")
        forged = identity.mint(ann, key="foreign")

The form of claims follows workspace tokens: `iss` is `{host}/oidc`, `aud` the workspace id, `sub` the user's name
(a service principal's client id).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.databricks_http import (
    ALL_APIS,
    Caller,
    DatabricksEmulator,
    DatabricksError,
    Exchange,
    JsonObject,
    bearer_token,
)

Algorithm = Literal["RS256", "ES256", "EdDSA"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

WORKSPACE_ID = "1234567890123456"
ACCOUNT_ID = "00000000-0000-4000-8000-000000000001"
DEFAULT_SCOPES = frozenset({ALL_APIS})
PLATFORM_MARGIN_S = 30
"""The platform refuses tokens with this much left, or less."""

_SCIM_SCOPES = ("iam", "iam.current-user:read")


@dataclass(frozen=True, slots=True)
class User:
    """A person, or a service principal when `client_secret` is set."""

    user_name: str
    id: str
    groups: tuple[str, ...] = ()
    client_secret: str | None = field(default=None, repr=False)
    allowed_scopes: frozenset[str] | None = None
    """Scopes the secret may ask for; None: any."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    algorithm: Algorithm
    private: PrivateKey = field(repr=False)

    def public_jwk(self) -> JsonObject:
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        jwk: JsonObject = json.loads(algorithm.to_jwk(self.private.public_key()))
        jwk.pop("key_ops", None)
        return jwk | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@functools.cache
def _generated(algorithm: Algorithm, number: int) -> PrivateKey:
    """The `number`th key of this process: RSA keys take long to make, so emulators share them."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


class DatabricksIdentity(DatabricksEmulator):
    """The emulator. `lifetime_s`: of tokens from the token endpoint. `clock_offset_s` moves its clock.

    `expiry_answer`: how an expired token is refused, in one of the ways the platform has been seen to.
    `workspace_header`: tell clients the workspace id, so that the SDK sends X-Databricks-Workspace-Id.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        algorithm: Algorithm = "RS256",
        lifetime_s: int = 3600,
        expiry_answer: Literal[400, 401, 403] = 401,
        workspace_header: bool = True,
        record: bool = True,
        control_prefix: str = "",
    ) -> None:
        super().__init__(host=host, port=port, control_prefix=control_prefix, record=record)
        self.lifetime_s = lifetime_s
        self.expiry_answer = expiry_answer
        self.clock_offset_s = 0.0
        self._workspace_header = workspace_header
        self._users: dict[str, User] = {}
        self._pats: dict[str, User] = {}
        self._revoked: set[str] = set()
        self._keys: dict[str, SigningKey] = {}
        self._keys_made = 0
        self._signing_kid = ""
        self.rotate(algorithm)

    # People and keys

    @property
    def issuer(self) -> str:
        return f"{self.url}/oidc"

    def now(self) -> float:
        return time.time() + self.clock_offset_s

    def add_user(self, user_name: str, *, groups: Iterable[str] = ()) -> User:
        user = User(user_name=user_name, id=str(7_000_000_000 + len(self._users)), groups=tuple(groups))
        self._users[user_name] = user
        return user

    def add_service_principal(
        self, client_id: str, client_secret: str, *, allowed_scopes: Iterable[str] | None = None
    ) -> User:
        scopes = None if allowed_scopes is None else frozenset(allowed_scopes)
        number = str(8_000_000_000 + len(self._users))
        user = User(user_name=client_id, id=number, client_secret=client_secret, allowed_scopes=scopes)
        self._users[client_id] = user
        return user

    def add_pat(self, user: User, token: str | None = None) -> str:
        token = token or f"dapi{secrets.token_hex(16)}"
        self._pats[token] = user
        return token

    def revoke(self, token: str) -> None:
        """Refuse `token` (personal or OAuth) from now on."""
        self._pats.pop(token, None)
        self._revoked.add(token)

    def rotate(self, algorithm: Algorithm = "RS256", *, retire: bool = False) -> SigningKey:
        """Sign with a new key from now on; the old ones stay published unless `retire`."""
        if retire:
            self._keys.clear()
        self._keys_made += 1
        key = SigningKey(f"key-{self._keys_made}", algorithm, _generated(algorithm, self._keys_made))
        self._keys[key.kid] = key
        self._signing_kid = key.kid
        return key

    def mint(
        self,
        user: User,
        *,
        scopes: Iterable[str] = DEFAULT_SCOPES,
        client_id: str = "databricks-app",
        expires_in_s: float = 3600,
        key: Literal["signing", "foreign", "none", "public_as_hmac"] = "signing",
        claims: Mapping[str, Any] | None = None,
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """An access token of `user`.

        `claims` replaces claims (a None value removes one); `header` likewise. `key`: `foreign` signs with a key that
        is not published but names one that is, `none` is alg none, `public_as_hmac` is HS256 over the public key.
        """
        signing = self._keys[self._signing_kid]
        now = self.now()
        body = {
            "iss": self.issuer,
            "aud": WORKSPACE_ID,
            "sub": user.user_name,
            "client_id": client_id,
            "scope": " ".join(sorted(scopes)),
            "iat": int(now),
            "exp": int(now + expires_in_s),
            "jti": str(uuid.uuid4()),
        } | dict(claims or {})
        head = {"kid": signing.kid, "typ": "at+jwt", "alg": signing.algorithm} | dict(header or {})
        body = {name: value for name, value in body.items() if value is not None}
        head = {name: value for name, value in head.items() if value is not None}
        if key == "none":
            return f"{_segment(head | {'alg': 'none'})}.{_segment(body)}."
        if key == "public_as_hmac":
            signed = f"{_segment(head | {'alg': 'HS256'})}.{_segment(body)}"
            digest = hmac.new(signing.public_pem(), signed.encode(), hashlib.sha256).digest()
            return f"{signed}.{_base64url(digest)}"
        private = signing.private if key == "signing" else _generated(signing.algorithm, -1)
        signed = f"{_segment(head)}.{_segment(body)}"
        algorithm = jwt.get_algorithm_by_name(signing.algorithm)
        return f"{signed}.{_base64url(algorithm.sign(signed.encode(), private))}"

    # Checking

    def authenticate(self, headers: Mapping[str, str]) -> Caller:
        """Who a request's bearer token stands for; DatabricksError as the platform refuses."""
        token = bearer_token(headers)
        user = self._pats.get(token)
        if user is not None:
            return Caller(user.user_name)
        if token.count(".") != 2 or token in self._revoked:
            raise DatabricksError(403, 403, "Invalid access token.")
        claims = self._verified(token)
        if claims["sub"] not in self._users:
            raise DatabricksError(401, 401, "Invalid Token: unknown principal")
        return Caller(claims["sub"], frozenset(str(claims.get("scope", "")).split()))

    def _verified(self, token: str) -> JsonObject:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims: JsonObject = jwt.decode(
                token,
                key.private.public_key(),
                algorithms=[key.algorithm],
                audience=WORKSPACE_ID,
                issuer=self.issuer,
                options={"verify_exp": False, "verify_iat": False, "require": ["exp", "sub", "iss", "aud"]},
            )
            left = float(claims["exp"]) - self.now()
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            raise DatabricksError(401, 401, "Invalid Token") from None
        if left <= 0:
            raise self._expired()
        if left <= PLATFORM_MARGIN_S:
            raise DatabricksError(403, 403, f"Token is expiring within {PLATFORM_MARGIN_S} seconds")
        return claims

    def _expired(self) -> DatabricksError:
        if self.expiry_answer == 400:
            return DatabricksError(400, 400, "io.jsonwebtoken.ExpiredJwtException: JWT expired")
        return DatabricksError(self.expiry_answer, self.expiry_answer, "Token is expired")

    # Routes

    def install(self, app: web.Application) -> None:
        discovery = self._discovery
        app.add_routes(
            [
                self.api("GET", "/.well-known/databricks-config", self._databricks_config),
                self.api("GET", "/oidc/.well-known/oauth-authorization-server", discovery),
                self.api("GET", "/oidc/.well-known/openid-configuration", discovery),
                self.api("GET", "/oidc/jwks.json", self._jwks),
                self.api("POST", "/oidc/v1/token", self._token),
                self.api("GET", "/api/2.0/preview/scim/v2/Me", self._me),
                *self.control_routes(),
            ]
        )

    def _databricks_config(self, _: Exchange, __: web.Request) -> JsonObject:
        config: JsonObject = {"oidc_endpoint": self.issuer, "account_id": ACCOUNT_ID, "cloud": "AWS"}
        if self._workspace_header:
            config["workspace_id"] = WORKSPACE_ID
        return config

    def _discovery(self, _: Exchange, __: web.Request) -> JsonObject:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/v1/authorize",
            "token_endpoint": f"{self.issuer}/v1/token",
            "jwks_uri": f"{self.issuer}/jwks.json",
            "scopes_supported": ["all-apis", "email", "offline_access", "openid", "profile"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["client_credentials", "authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in self._keys.values()}),
        }

    def _jwks(self, _: Exchange, __: web.Request) -> JsonObject:
        return {"keys": [key.public_jwk() for key in self._keys.values()]}

    def _token(self, exchange: Exchange, _: web.Request) -> JsonObject | web.Response:
        form = exchange.body if isinstance(exchange.body, dict) else {}
        if form.get("grant_type") != "client_credentials":
            return _oauth_error(400, "unsupported_grant_type", "Only client_credentials is supported here")
        client_id, client_secret = _client_credentials(exchange.headers, form)
        user = self._users.get(client_id)
        if user is None or not _same_secret(user.client_secret, client_secret):
            return _oauth_error(401, "invalid_client", "Client authentication failed")
        exchange.caller = client_id
        asked = frozenset(form.get("scope", ALL_APIS).split())
        if user.allowed_scopes is not None and not asked <= user.allowed_scopes:
            refused = ", ".join(sorted(asked - user.allowed_scopes))
            return _oauth_error(403, "access_denied", f"Scopes {refused} are not assigned to the client")
        claims = {"authorization_details": form["authorization_details"]} if form.get("authorization_details") else {}
        return {
            "access_token": self.mint(
                user, scopes=asked, client_id=client_id, expires_in_s=self.lifetime_s, claims=claims
            ),
            "token_type": "Bearer",
            "expires_in": self.lifetime_s,
            "scope": " ".join(sorted(asked)),
        }

    def _me(self, exchange: Exchange, _: web.Request) -> JsonObject:
        caller = self.authenticate(exchange.headers)
        exchange.caller = caller.user_name
        if not caller.may(*_SCIM_SCOPES):
            raise DatabricksError(403, 403, "Provided OAuth token does not have required scopes: iam.current-user:read")
        user = self._users[caller.user_name]
        return {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "id": user.id,
            "userName": user.user_name,
            "displayName": user.user_name,
            "active": True,
            "emails": [{"type": "work", "value": user.user_name, "primary": True}],
            "groups": [{"display": name, "type": "direct", "value": name} for name in user.groups],
        }


def _client_credentials(headers: Mapping[str, str], form: Mapping[str, str]) -> tuple[str, str]:
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        client_id, _, client_secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return client_id, client_secret


def _same_secret(stored: str | None, given: str) -> bool:
    return stored is not None and hmac.compare_digest(stored.encode(), given.encode())


def _oauth_error(status: int, error: str, description: str) -> web.Response:
    return web.json_response({"error": error, "error_description": description}, status=status)


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _segment(value: JsonObject) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())
