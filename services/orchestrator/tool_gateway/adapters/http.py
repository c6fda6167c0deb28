"""Operations of one HTTP API, written by hand: a path, a query and a body with places for arguments."""

from typing import Any

from services.common.errors import InvalidArgument
from services.common.http import EgressClient
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import HttpApi, HttpOperation, ListedTool, ToolSourceSpec
from services.orchestrator.http_operations import READ_METHODS, check_http_api
from services.orchestrator.tool_gateway.adapters.http_exchange import (
    HttpCall,
    HttpExchange,
    json_body,
)
from services.orchestrator.tool_gateway.adapters.http_templates import (
    BadArgument,
    fill_body,
    fill_path,
    fill_query,
)
from services.orchestrator.tool_gateway.pins import refuse_changed
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    OutcomeUnknown,
    RequestCredentials,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_identity import digest_of


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
        return [_listed(api, operation) for operation in api.operations]

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Send the request of an operation once; see `ToolAdapter`."""
        assert request.source is not None
        api = _api(request.source)
        operation = next((one for one in api.operations if one.name == request.tool), None)
        if operation is None:
            raise CallRefused(f"the source has no operation {request.tool}", reason="TOOL_NOT_FOUND")
        refuse_changed(request, _listed(api, operation))
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


def _listed(api: HttpApi, operation: HttpOperation) -> ListedTool:
    return ListedTool(
        name=operation.name,
        description=operation.description,
        arguments_schema=operation.arguments_schema,
        idempotent_hint=idempotent_hint(operation.method, operation.idempotency_header),
        call_digest=digest_of(
            [
                api.base_url,
                operation.method.upper(),
                operation.path,
                operation.query,
                operation.body,
                operation.result_pointer,
                operation.idempotency_header,
            ]
        ),
        call=http_call(operation.method, api.base_url, operation.path),
    )


def http_call(method: str, base_url: str, path: str) -> str:
    """Return how an operation is called, for people: `POST https://api.example.com/orders/{id}`."""
    return f"{method.upper()} {base_url.rstrip('/')}{path}"


def idempotent_hint(method: str, idempotency_header: str) -> bool | None:
    """Return whether a request may be repeated, by its method; None: only the API's owner can say."""
    if method.upper() in READ_METHODS or idempotency_header:
        return True
    return False if method.upper() == "POST" else None


def _api(source: ToolSourceSpec) -> HttpApi:
    assert isinstance(source.endpoint, HttpApi)
    return source.endpoint
