"""JSON over HTTP: what auth asks issuers and workspaces."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from services.common.egress import AddressPolicy, origin_of
from services.common.errors import Unavailable
from services.common.http import EgressClient, read_limited

_MAX_BYTES = 1024 * 1024
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A status and the JSON that came with it; None when it was not valid JSON."""

    status: int
    body: Any = field(repr=False)

    @property
    def document(self) -> Mapping[str, Any]:
        """The body when it is a JSON object, else an empty one."""
        return self.body if isinstance(self.body, dict) else {}


class JsonClient:
    """Asks for JSON through the egress client; takes answers of at most 1 MiB."""

    def __init__(self, policy: AddressPolicy, *, timeout_seconds: float) -> None:
        """`policy` says which addresses a group may choose."""
        self._client = EgressClient(policy, total_timeout=timeout_seconds)
        self._tls: dict[Path, ssl.SSLContext] = {}

    async def get(self, url: str, *, trusted: bool = True, bearer: str = "", ca_file: Path | None = None) -> HttpAnswer:
        """Return the answer to a GET. `trusted` says that the operator chose the address.

        Raises:
            PermissionDenied: DESTINATION_NOT_ALLOWED, a group chose an address that groups may not call.
            Unavailable: no answer in time, or a larger one than is taken.
        """
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        tls = await self._tls_of(ca_file) if ca_file else None
        return await self._request("GET", url, trusted=trusted, headers=headers, tls=tls)

    async def post_form(
        self, url: str, form: Mapping[str, str], *, user: str, password: str, trusted: bool = True
    ) -> HttpAnswer:
        """Return the answer to a form that is posted with HTTP Basic authentication.

        Raises:
            PermissionDenied, Unavailable: as `get`.
        """
        headers = {"Authorization": aiohttp.encode_basic_auth(user, password)}
        return await self._request("POST", url, trusted=trusted, headers=headers, data=dict(form))

    async def _request(self, method: str, url: str, **options: Any) -> HttpAnswer:
        try:
            async with await self._client.request(method, url, **options) as response:
                data = await read_limited(response, _MAX_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise unavailable(url, f"did not answer ({type(error).__name__})") from None
        if data is None:
            raise unavailable(url, "answered with more than 1 MiB")
        try:
            return HttpAnswer(response.status, json.loads(data))
        except ValueError:
            return HttpAnswer(response.status, None)

    async def _tls_of(self, ca_file: Path) -> ssl.SSLContext:
        if ca_file not in self._tls:
            try:
                self._tls[ca_file] = await asyncio.to_thread(ssl.create_default_context, cafile=str(ca_file))
            except (OSError, ssl.SSLError) as error:
                raise unavailable(str(ca_file), f"cannot be read ({type(error).__name__})") from None
        return self._tls[ca_file]

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


def unavailable(url: str, why: str) -> Unavailable:
    """Return the failure of an address that should answer and does not; it names the origin only."""
    origin = origin_of(url) or url
    return Unavailable(f"{origin} {why}; try again", metadata={"dependency": origin}, retry_after=_RETRY_SECONDS)
