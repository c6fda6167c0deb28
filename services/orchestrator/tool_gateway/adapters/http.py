"""Operations of one HTTP API, written by hand: a path, a query and a body with places for arguments."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from services.common.egress import origin_of
from services.common.errors import FieldViolation, InvalidArgument
from services.common.http import EgressClient
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import HttpApi, HttpOperation, ListedTool, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.http_exchange import (
    READ_METHODS,
    HttpCall,
    HttpExchange,
    RequestCredentials,
    json_body,
)
from services.orchestrator.tool_gateway.adapters.http_templates import (
    BadArgument,
    fill_body,
    fill_path,
    fill_query,
    placeholders,
)
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    OutcomeUnknown,
    ToolCallRequest,
    ToolResult,
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_PATH = re.compile(r"/[^?#\s\x00-\x1f\x7f\\]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")


class HttpAdapter:
    """Calls the operations of sources of the kind HTTP."""

    def __init__(
        self, egress: EgressClient, credentials: RequestCredentials, *, max_result_bytes: int = 16 * 1024 * 1024
    ) -> None:
        self._exchange = HttpExchange(egress, credentials, max_result_bytes=max_result_bytes)

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:  # noqa: ARG002
        """Return a tool for each operation; see `ToolAdapter`.

        Raises:
            InvalidArgument: an operation cannot be called as it is written.
        """
        api = _api(source)
        violations = list(check_http_api(api))
        if violations:
            raise InvalidArgument.fields(violations)
        return [_listed(operation) for operation in api.operations]

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Send the request of an operation once; see `ToolAdapter`."""
        assert request.source is not None
        api = _api(request.source)
        operation = next((one for one in api.operations if one.name == request.tool), None)
        if operation is None:
            raise CallRefused(f"the source has no operation {request.tool}", reason="TOOL_NOT_FOUND")
        try:
            call = build_call(request.source, api, operation, request.arguments, request.call_id)
        except BadArgument as error:
            return ToolResult(str(error), is_error=True)
        return await self._exchange.make(request.source, api.base_url, request, call, progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Say that HTTP has no way to ask what became of a request."""
        raise OutcomeUnknown("the request was sent, and HTTP has no way to ask what became of it")

    async def close(self) -> None:
        """Nothing is kept."""


def build_call(
    source: ToolSourceSpec, api: HttpApi, operation: HttpOperation, arguments: dict[str, Any], call_id: str
) -> HttpCall:
    """Return the request of one call.

    Raises:
        BadArgument: an argument cannot be part of it.
    """
    url = api.base_url.rstrip("/") + fill_path(operation.path, arguments)
    if query := fill_query(operation.query, arguments):
        url = f"{url}?{query}"
    headers = {"Accept": "application/json, text/*;q=0.9, */*;q=0.5", **source.headers}
    body = None
    if operation.body is not None:
        body = json_body(fill_body(operation.body, arguments))
        headers["Content-Type"] = "application/json"
    if operation.idempotency_header:
        headers[operation.idempotency_header] = call_id
    return HttpCall(operation.method.upper(), url, headers, body, operation.result_pointer)


def check_base_url(url: str) -> str:
    """Return what is wrong with the base address of an API; empty: nothing."""
    parts = urlsplit(url) if origin_of(url) else None
    if parts is None or not parts.scheme or parts.query or parts.fragment or (parts.path and not _is_path(parts.path)):
        return "write it as https://HOST or https://HOST/PATH, without a query and a user name"
    return ""


def check_http_api(api: HttpApi, field: str = "spec.http") -> Iterator[FieldViolation]:
    """Yield what keeps an API from being called as it is written."""
    if problem := check_base_url(api.base_url):
        yield FieldViolation(f"{field}.base_url", problem)
    names: set[str] = set()
    for position, operation in enumerate(api.operations):
        path = f"{field}.operations[{position}]"
        if operation.name in names:
            yield FieldViolation(f"{path}.name", f"{operation.name} is the name of an earlier operation")
        names.add(operation.name)
        yield from _check_operation(path, operation)


def _check_operation(path: str, operation: HttpOperation) -> Iterator[FieldViolation]:
    if operation.method.upper() not in METHODS:
        yield FieldViolation(f"{path}.method", f"has to be one of {', '.join(sorted(METHODS))}")
    if not _is_path(operation.path):
        yield FieldViolation(
            f"{path}.path", "has to begin with / and must not hold ?, #, blanks or the steps . and ..: see query"
        )
    if operation.body is not None and operation.method.upper() in READ_METHODS:
        yield FieldViolation(f"{path}.body", f"{operation.method.upper()} has no body")
    if operation.idempotency_header and not _HEADER_NAME.fullmatch(operation.idempotency_header):
        yield FieldViolation(f"{path}.idempotency_header", "has to be the name of a header")
    if not _POINTER.fullmatch(operation.result_pointer):
        yield FieldViolation(f"{path}.result_pointer", 'has to be a JSON Pointer, such as "/data/items"')
    declared = operation.arguments_schema.get("properties")
    declared = declared if isinstance(declared, dict) else {}
    used = {*placeholders(operation.path), *placeholders(operation.query), *placeholders(operation.body)}
    for name in sorted(used - set(declared)):
        yield FieldViolation(f"{path}.arguments_schema", f"has no property {name}, which the request asks for")


def _is_path(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and not any(step in (".", "..") for step in path.lower().split("/"))


def _listed(operation: HttpOperation) -> ListedTool:
    return ListedTool(
        name=operation.name,
        description=operation.description,
        arguments_schema=operation.arguments_schema,
        idempotent_hint=idempotent_hint(operation.method, operation.idempotency_header),
    )


def idempotent_hint(method: str, idempotency_header: str) -> bool | None:
    """Return whether a request may be repeated, by its method; None: only the API's owner can say."""
    if method.upper() in READ_METHODS or idempotency_header:
        return True
    return False if method.upper() == "POST" else None


def _api(source: ToolSourceSpec) -> HttpApi:
    assert isinstance(source.endpoint, HttpApi)
    return source.endpoint
