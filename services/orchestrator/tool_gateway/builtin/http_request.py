"""Sends requests to the origins that a crew allows."""

import re
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from services.common.egress import origin_of, required_origin
from services.common.http import EgressClient
from services.orchestrator.domain.tool_source import AuthKind, HttpApi, SourceAuth, SourceKind, ToolSourceSpec
from services.orchestrator.http_operations import READ_METHODS, is_of_caller_or_connection, overrides_method
from services.orchestrator.tool_gateway.adapters.http_exchange import HttpCall, HttpExchange, json_body
from services.orchestrator.tool_gateway.credentials import SourceCredentials
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    NotSent,
    OutcomeUnknown,
    SourceAnswer,
    SourceQuestion,
    ToolCallRequest,
    ToolResult,
)

_NAME = "http_request"
_SECRETS = "tools/http/"
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_API_KEY = "x-api-key"


class _Refusal(ValueError):
    """The request is not one that may be sent; the text is for the model."""


class HttpRequest:
    """`http_request`."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: SourceCredentials,
        *,
        max_result_bytes: int,
        operators_origins: Collection[str],
    ) -> None:
        """`operators_origins` are all that may be called; empty: those that crews allow."""
        self._exchange = HttpExchange(egress, credentials, max_result_bytes=max_result_bytes)
        self._operators_origins = frozenset(operators_origins)

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Send a request, once; see `ToolAdapter`."""
        try:
            url = self._url(request)
            call = _http_call(request, url)
        except _Refusal as refusal:
            return ToolResult(str(refusal), is_error=True)
        source = _source(request, required_origin(url))
        if call.method not in READ_METHODS:
            return await self._exchange.make(source, url, request, call, progress)
        try:
            return await self._exchange.make(source, url, request, call, _Reading(progress))
        except OutcomeUnknown as error:
            # Reading has no effect, whatever became of it.
            raise NotSent(str(error)) from error

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Say that HTTP has no way to ask what became of a request."""
        raise OutcomeUnknown("the request was sent, and HTTP has no way to ask what became of it", final=True)

    def _url(self, request: ToolCallRequest) -> str:
        url = str(request.arguments["url"]).strip().partition("#")[0]
        origin = origin_of(url) if "://" in url else None
        if origin is None:
            raise _Refusal("the address has to begin with https:// and a host, without a user name")
        allowed = [origin_of(str(one)) for one in request.config.get("origins") or ()]
        if origin not in allowed:
            raise _Refusal(f"the crew allows no requests to {origin}; it allows {', '.join(filter(None, allowed))}")
        if self._operators_origins and origin not in self._operators_origins:
            raise CallRefused(
                f"the operator allows no requests to {origin} (COXSWAIN_TOOLS_HTTP_REQUEST_ORIGINS)",
                reason="DESTINATION_NOT_ALLOWED",
            )
        return url


class _Reading:
    """The progress of a request that has no effect: nothing of it need be stored before it is sent."""

    def __init__(self, progress: CallProgress) -> None:
        self._progress = progress

    @property
    def goes_on(self) -> bool:
        """See `CallProgress`."""
        return self._progress.goes_on

    async def sent(self) -> None:
        """Say nothing: the request may be repeated."""

    async def handle(self, handle: str) -> None:
        """See `CallProgress`."""
        await self._progress.handle(handle)

    async def progress(self, text: str, fraction: float | None = None) -> None:
        """See `CallProgress`."""
        await self._progress.progress(text, fraction)

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        """See `CallProgress`."""
        return await self._progress.ask(question, durable=durable)


def _http_call(request: ToolCallRequest, url: str) -> HttpCall:
    arguments, config = request.arguments, request.config
    method = str(arguments.get("method") or "GET")
    if method not in READ_METHODS and config.get("read_only", True) is not False:
        raise _Refusal(f"the crew lets this tool read only: GET and HEAD, not {method}")
    for name, _value in parse_qsl(urlsplit(url).query.replace(";", "&"), keep_blank_values=True):
        if overrides_method(name):
            raise _Refusal(f"the parameter {name[:64]} would make it another request; choose its method by `method`")
    if method in READ_METHODS and ("json" in arguments or "text" in arguments):
        raise _Refusal(f"{method} has no body; leave out json and text")
    if "json" in arguments and "text" in arguments:
        raise _Refusal("give either json or text, not both")
    headers = _headers(arguments.get("headers") or {}, str(config.get("secret_header", "authorization")))
    body: bytes | None = None
    if "json" in arguments:
        body = json_body(arguments["json"])
        headers = {"content-type": "application/json", **headers}
    elif "text" in arguments:
        body = str(arguments["text"]).encode()
        headers = {"content-type": "text/plain; charset=utf-8", **headers}
    return HttpCall(method, url, headers, body)


def _headers(given: dict[str, Any], secret_header: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in given.items():
        low = str(name).lower()
        if not _HEADER_NAME.fullmatch(low) and not overrides_method(low):
            raise _Refusal(f'"{str(name)[:64]}" is no name of a header')
        if overrides_method(low):
            raise _Refusal(f"the header {low} would make it another request; choose its method by `method`")
        if is_of_caller_or_connection(low) or low in (_API_KEY, secret_header.lower()):
            raise _Refusal(f"the header {low} is not for you to set; leave it out")
        if not str(value).isascii() or not str(value).isprintable():
            raise _Refusal(f"the value of the header {low} has to be one line of ASCII characters")
        headers[low] = str(value)
    return headers


def _source(request: ToolCallRequest, origin: str) -> ToolSourceSpec:
    """Return what stands in for a source: where its secret goes is decided by the secret's own origins."""
    config = request.config
    auth = SourceAuth()
    if secret := str(config.get("secret") or ""):
        if not secret.startswith(_SECRETS):
            # Those of sources are used under the policies of their sources.
            raise CallRefused(
                f"the secret of a request has a name below {_SECRETS}", reason="CREDENTIAL_NOT_CONFIGURED"
            )
        auth = SourceAuth(
            kind=AuthKind.SECRET,
            secret_name=secret,
            header=str(config.get("secret_header", auth.header)),
            prefix=str(config.get("secret_prefix", auth.prefix)),
        )
    return ToolSourceSpec(name=_NAME, kind=SourceKind.HTTP, endpoint=HttpApi(origin, ()), auth=auth)
