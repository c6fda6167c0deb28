"""One HTTP request of a tool call, sent once, and what its response says about the call."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urljoin

import aiohttp

from services.common.egress import origin_of, required_origin
from services.common.errors import FailedPrecondition, PermissionDenied, Unavailable
from services.common.http import EgressClient, read_limited
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import ToolSourceSpec
from services.orchestrator.http_operations import READ_METHODS
from services.orchestrator.tool_gateway.http_bodies import (
    BadBody,
    error_text,
    read_result,
    secrets_of,
)
from services.orchestrator.tool_gateway.http_statuses import check_status
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    NotSent,
    OutcomeUnknown,
    RequestCredentials,
    ToolCallRequest,
    ToolResult,
)

_MAX_REDIRECTS = 3
_CALL_HEADER = "X-Request-Id"
_SHOWN_HEADERS = ("content-type", "content-length", "etag", "last-modified")


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request as it goes out, without its credential."""

    method: str
    url: str
    """Percent-encoded; it is sent to the letter."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    result_pointer: str = ""


class HttpExchange:
    """Sends the requests of sources over HTTP."""

    def __init__(self, egress: EgressClient, credentials: RequestCredentials, *, max_result_bytes: int) -> None:
        self._egress = egress
        self._credentials = credentials
        self._max_result_bytes = max_result_bytes

    async def make(
        self, source: ToolSourceSpec, base_url: str, request: ToolCallRequest, call: HttpCall, progress: CallProgress
    ) -> ToolResult:
        """Send a request to the origin of `base_url`, and return what its response says.

        Raises:
            NotSent, OutcomeUnknown, CallRefused: see `ToolAdapter.call`.
        """
        _check_destination(base_url, call.url)
        call = _named(call, request.call_id)
        secret = await self._credentials.headers(source, request.principal, call.url)
        if call.method in READ_METHODS:
            # These may use a connection that is open already.
            await progress.sent()
        response, data, hops = await self._answered(base_url, call, secret, progress)
        if response.status == 401 and not hops:
            # The request was not taken: a token may have been withdrawn before its time.
            self._credentials.forget(source, request.principal)
            renewed = await self._credentials.headers(source, request.principal, call.url)
            if renewed != secret:
                secret = renewed
                response, data, hops = await self._answered(base_url, call, secret, progress)
        if data is None:
            return _too_large(self._max_result_bytes, response.status)
        secrets = secrets_of(secret.values())
        return await self._outcome(request, call, response, data, secrets, redirected=hops > 0)

    async def _answered(
        self, base_url: str, call: HttpCall, secret: Mapping[str, str], progress: CallProgress
    ) -> tuple[aiohttp.ClientResponse, bytes | None, int]:
        """Return a response, its body (None: too large), and how many redirects led to it."""
        try:
            response, hops = await self._send(call, {**call.headers, **secret}, progress)
            async with response:
                data = await read_limited(response, self._max_result_bytes)
        except PermissionDenied as error:
            raise CallRefused(error.message, reason=error.reason) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # Neither a name, nor an address, nor a certificate was good enough to send anything.
            raise NotSent(f"{required_origin(base_url)} cannot be reached") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise OutcomeUnknown(
                f"{required_origin(base_url)} was sent the request, but its answer did not arrive"
            ) from error
        return response, data, hops

    async def read(self, source: ToolSourceSpec | None, principal: Principal, url: str, max_bytes: int) -> bytes:
        """Return the body at an address, asked for with the credential of a source, or without one.

        Raises:
            CoxswainError, CallRefused: it cannot be read.
        """
        origin = required_origin(url)
        headers = {} if source is None else await self._credentials.headers(source, principal, url)
        try:
            response, _ = await self._send(HttpCall("GET", url), headers)
            async with response:
                data = await read_limited(response, max_bytes)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"{origin} cannot be reached", reason="TOOL_UNAVAILABLE") from error
        if response.status != 200 or data is None:
            problem = (
                f"answered with HTTP {response.status}" if data is not None else f"sent more than {max_bytes} bytes"
            )
            raise FailedPrecondition(f"{origin} {problem}", reason="TOOL_UNAVAILABLE")
        return data

    async def _send(
        self, call: HttpCall, headers: Mapping[str, str], progress: CallProgress | None = None
    ) -> tuple[aiohttp.ClientResponse, int]:
        """Send a request, and follow the redirects that only read and stay on the origin."""
        method, url, body = call.method, call.url, call.body
        hops = 0
        while True:
            try:
                response = await self._egress.request(
                    method,
                    url,
                    trusted=False,
                    data=body,
                    headers=headers,
                    encoded=hops == 0,
                    before_send=None if method in READ_METHODS or progress is None else progress.sent,
                )
            except aiohttp.ClientConnectorError as error:
                if hops and call.method not in READ_METHODS:
                    raise OutcomeUnknown("the request was answered with a redirect that leads nowhere") from error
                raise
            target = _redirect(method, url, response)
            if target is None or hops == _MAX_REDIRECTS:
                return response, hops
            response.close()
            hops += 1
            method, url, body = "HEAD" if method == "HEAD" else "GET", target, None
            headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}

    async def _outcome(
        self,
        request: ToolCallRequest,
        call: HttpCall,
        response: aiohttp.ClientResponse,
        data: bytes,
        secrets: tuple[str, ...],
        *,
        redirected: bool,
    ) -> ToolResult:
        status, content_type = response.status, response.headers.get("Content-Type", "")
        if 200 <= status < 300:
            return await _success(request, call, response, data, secrets)
        text = error_text(data, content_type, secrets)
        answer = f"HTTP {status}" + (f": {text}" if text else "")
        effect_possible = call.method not in READ_METHODS
        if redirected and effect_possible:
            # What was asked for may be done; only the page that says so cannot be read.
            raise OutcomeUnknown(f"the request was answered with a redirect, and the address it leads to with {answer}")
        if 300 <= status < 400:
            return _unfollowed(call, response)
        check_status(status, answer, response.headers.get("Retry-After", ""), idempotent=request.idempotent)
        return ToolResult(answer, is_error=True)


def json_body(value: object) -> bytes:
    """Return a JSON value as the body of a request."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _named(call: HttpCall, call_id: str) -> HttpCall:
    """Return a request by which its source's log can be compared with the events of executions."""
    given = {name.lower() for name in call.headers}
    return call if _CALL_HEADER.lower() in given else replace(call, headers={**call.headers, _CALL_HEADER: call_id})


def _check_destination(base_url: str, url: str) -> None:
    if required_origin(url) != required_origin(base_url):
        raise CallRefused("a tool may call its source's origin only", reason="DESTINATION_NOT_ALLOWED")


def _redirect(method: str, url: str, response: aiohttp.ClientResponse) -> str | None:
    """Return where a response leads that may be followed: by reading, on the same origin."""
    status, location = response.status, response.headers.get("Location", "")
    reading = method in READ_METHODS
    if not location or not (status in (301, 302, 303) or (reading and status in (307, 308))):
        return None
    target = _target(url, location)
    return target if target and origin_of(target) == origin_of(url) else None


def _target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def _unfollowed(call: HttpCall, response: aiohttp.ClientResponse) -> ToolResult:
    target = _target(call.url, response.headers.get("Location", ""))
    origin = origin_of(target) if target else None
    if call.method not in READ_METHODS and response.status in (300, 301, 302, 303):
        # Forms answer so when they have done their work.
        raise OutcomeUnknown(f"the request was answered with a redirect to {origin or 'no address'}, not followed")
    return ToolResult(
        f"HTTP {response.status}: the source redirects to {origin or 'no valid address'}, which is not followed",
        is_error=True,
    )


async def _success(
    request: ToolCallRequest, call: HttpCall, response: aiohttp.ClientResponse, data: bytes, secrets: tuple[str, ...]
) -> ToolResult:
    if call.method == "HEAD":
        shown = {name: response.headers[name] for name in _SHOWN_HEADERS if name in response.headers}
        found = {"status": response.status, "headers": shown}
        return ToolResult(json.dumps(found), structured=found)
    if not data:
        return ToolResult(f"HTTP {response.status}, without content")
    content_type = response.headers.get("Content-Type", "")
    try:
        return await read_result(
            data, content_type, pointer=call.result_pointer, secrets=secrets, name=request.tool.rpartition("/")[2]
        )
    except BadBody as error:
        raise OutcomeUnknown(
            f"the source answered with HTTP {response.status}, but its answer cannot be read: {error}"
        ) from error


def _too_large(limit: int, status: int) -> ToolResult:
    if status >= 500:
        raise OutcomeUnknown(f"the source answered with HTTP {status} and more than {limit} bytes")
    return ToolResult(
        f"HTTP {status}: the request was made, but its answer is larger than {limit} bytes and was not read",
        is_error=True,
    )
