"""The published keys of an issuer, found by discovery, read again on a timer and when a token names a new one."""

import asyncio
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.auth.http import HttpAnswer, JsonClient, unavailable
from services.common.errors import Unavailable

logger = structlog.get_logger(__name__)

_OK = 200
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class IssuerAddress:
    """Where an issuer publishes what it is and its keys."""

    issuer: str
    """Its name, as tokens carry it and discovery has to repeat it."""
    discovery_url: str
    """Not fetched when `jwks_uri` is set."""
    jwks_uri: str = ""
    ca_file: Path | None = None
    token_file: Path | None = None
    """A bearer token that the issuer wants to see, as Kubernetes does."""


class KeySet:
    """Keys by key id. Known keys outlive an outage of the issuer; unknown key ids cannot make us ask all the time.

    After a reading that failed nobody knows whether the issuer publishes a key that is not known.
    """

    def __init__(
        self,
        http: JsonClient,
        address: IssuerAddress,
        *,
        refresh_seconds: float,
        unknown_key_pause_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._address = address
        self._refresh_seconds = refresh_seconds
        self._pause_seconds = unknown_key_pause_seconds
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._failure: Unavailable | None = None
        """Why the last reading failed."""
        self._reading = asyncio.Lock()

    @property
    def issuer(self) -> str:
        """The issuer's name."""
        return self._address.issuer

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """Return a key, None when the issuer does not publish it.

        Raises:
            Unavailable: the key is not known, and the issuer does not answer, or did not a moment ago.
        """
        seen = self._tried_at
        if not self._keys or self._wants_reading(kid):
            await self._read(seen)
        key = self._keys.get(kid)
        if key is None and self._failure is not None:
            # One exception raised for many callers would collect the traceback of each.
            raise copy.copy(self._failure)
        return key

    def _wants_reading(self, kid: str) -> bool:
        now = self._clock()
        if now - self._tried_at <= self._pause_seconds:
            return False
        # One call refreshes the keys; no other waits for what it knows.
        return kid not in self._keys or (now - self._read_at > self._refresh_seconds and not self._reading.locked())

    async def _read(self, seen: float) -> None:
        """Read the keys unless another call has, since `seen`."""
        async with self._reading:
            if self._tried_at > seen:
                return
            try:
                self._keys = await self._published()
                self._failure, self._read_at = None, self._clock()
            except Unavailable as error:
                self._failure = error
                logger.warning("issuer_unavailable", issuer=self.issuer, error=error.message)
            # Not before, nor when the call is cancelled: others wait for the answer, or ask themselves.
            self._tried_at = self._clock()

    async def _published(self) -> Mapping[str, jwt.PyJWK]:
        bearer = await self._bearer()
        jwks_uri = self._address.jwks_uri
        if not jwks_uri:
            jwks_uri = await self._discover(bearer)
        keys = _usable(await self._get(jwks_uri, bearer))
        if not keys:
            raise unavailable(jwks_uri, "publishes no key that can be used")
        return keys

    async def _discover(self, bearer: str) -> str:
        url = self._address.discovery_url
        document = (await self._get(url, bearer)).document
        issuer, jwks_uri = document.get("issuer"), document.get("jwks_uri")
        if not isinstance(issuer, str) or not isinstance(jwks_uri, str):
            raise unavailable(url, "answers discovery without issuer or jwks_uri")
        if issuer != self.issuer:
            raise unavailable(url, f"says it is {issuer[:200]}, which is another issuer than was configured")
        return jwks_uri

    async def _get(self, url: str, bearer: str) -> HttpAnswer:
        answer = await self._http.get(url, bearer=bearer, ca_file=self._address.ca_file)
        if answer.status != _OK:
            raise unavailable(url, f"answered with HTTP status {answer.status}")
        return answer

    async def _bearer(self) -> str:
        file = self._address.token_file
        if file is None:
            return ""
        try:
            # Such files are replaced while we run.
            return (await asyncio.to_thread(file.read_text, encoding="utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise unavailable(str(file), f"cannot be read ({type(error).__name__})") from None


def _usable(answer: HttpAnswer) -> dict[str, jwt.PyJWK]:
    """Return the public signature keys that have an id."""
    listed = answer.document.get("keys")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and _is_for_signatures(entry):
            try:
                key = jwt.PyJWK(entry)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
            if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
                logger.warning("issuer_key_too_short", kid=entry["kid"], bits=key.key.key_size)
                continue
            keys[entry["kid"]] = key
    return keys


def _is_for_signatures(entry: Mapping[str, Any]) -> bool:
    # A symmetric key that is published is not a secret.
    return isinstance(entry.get("kid"), str) and entry.get("kty") != "oct" and entry.get("use", "sig") == "sig"
