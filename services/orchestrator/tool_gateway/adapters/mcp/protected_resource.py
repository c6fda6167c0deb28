"""Whose tokens a server takes that has refused a credential: its metadata as a protected resource (RFC 9728)."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from services.common.bounded_json import parse_json
from services.common.egress import origin_of
from services.common.errors import CoxswainError
from services.common.http import EgressClient, read_limited
from services.orchestrator.tool_gateway.adapters.foreign import shown

_SECONDS = 10.0
_MAX_BYTES = 64 * 1024
_MAX_SHOWN_BYTES = 512
_MOST_SCOPES = 20
# RFC 6749, section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")
_PARAMETER = re.compile(r'\b(resource_metadata|scope)\s*=\s*(?:"([^"\\]{1,2048})"|([^\s",]{1,2048}))', re.IGNORECASE)
_RESOURCE = "/.well-known/oauth-protected-resource"
# RFC 8414 and OpenID Connect Discovery.
_SERVERS = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


class ProtectedResources:
    """Finds out how to get a token, for whoever declares a source. Nothing that is found is used for a call."""

    def __init__(self, egress: EgressClient) -> None:
        self._egress = egress

    async def advice(self, url: str, challenge: str) -> str:
        """Return what to do about a refusal of the server at `url`, by its WWW-Authenticate; empty: it does not say."""
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._advice(url, challenge)
        except TimeoutError:
            return ""

    async def _advice(self, url: str, challenge: str) -> str:
        named = {match[1].lower(): match[2] or match[3] for match in _PARAMETER.finditer(challenge)}
        metadata = await self._resource(url, named.get("resource_metadata", ""))
        issuer = next((one for one in _texts(metadata.get("authorization_servers")) if origin_of(one)), "")
        if not issuer:
            return ""
        scopes = named["scope"].split() if "scope" in named else _texts(metadata.get("scopes_supported"))
        known = [one for one in scopes if _SCOPE.fullmatch(one)]
        wanted = f", scopes: {' '.join(known[:_MOST_SCOPES])}" if known else ""
        token_url = await self._token_url(issuer)
        where = f"token_url: {token_url}" if token_url else "token_url: as that server's documentation says"
        text = f"the server takes tokens of {issuer}; for a client of it set oauth_client ({where}{wanted})"
        return shown(text, _MAX_SHOWN_BYTES)

    async def _resource(self, url: str, named: str) -> dict[str, Any]:
        """Return the metadata of a server, which lie on its own origin and are about that."""
        path = urlsplit(url).path.rstrip("/")
        places = [named] if named and origin_of(named) == origin_of(url) else []
        for place in dict.fromkeys([*places, urljoin(url, _RESOURCE + path), urljoin(url, _RESOURCE)]):
            found = await self._document(place)
            if origin_of(str(found.get("resource", ""))) == origin_of(url):
                return found
        return {}

    async def _token_url(self, issuer: str) -> str:
        for place in _places(issuer):
            found = await self._document(place)
            token_url = found.get("token_endpoint")
            if found.get("issuer") == issuer and isinstance(token_url, str) and origin_of(token_url):
                return token_url
        return ""

    async def _document(self, url: str) -> dict[str, Any]:
        try:
            async with await self._egress.request(
                "GET", url, trusted=False, headers={"accept": "application/json"}, total_timeout=_SECONDS
            ) as response:
                body = await read_limited(response, _MAX_BYTES) if response.status == 200 else None
            found = await parse_json(body or b"")
        except (CoxswainError, aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _places(issuer: str) -> Iterator[str]:
    """Yield where the metadata of an authorization server may lie."""
    path = urlsplit(issuer).path.rstrip("/")
    for known in _SERVERS:
        yield urljoin(issuer, known + path)
    if path:
        yield issuer.rstrip("/") + _SERVERS[1]
