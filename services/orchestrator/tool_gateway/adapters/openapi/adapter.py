"""Calls operations of an API that an OpenAPI document describes."""

import hashlib
from typing import Any

from services.common.cache import AsyncCache
from services.common.egress import required_origin
from services.common.errors import CoxswainError, InvalidArgument
from services.common.http import EgressClient
from services.common.identity.principal import Principal
from services.common.reading.reader import CannotRead
from services.orchestrator.domain.tool_source import ListedTool, OpenApiDocument, ToolSourceSpec
from services.orchestrator.http_operations import check_base_url
from services.orchestrator.tool_gateway.adapters.http import http_call, idempotent_hint
from services.orchestrator.tool_gateway.adapters.http_exchange import (
    HttpCall,
    HttpExchange,
    json_body,
)
from services.orchestrator.tool_gateway.adapters.http_templates import BadArgument, plain_text
from services.orchestrator.tool_gateway.adapters.openapi.document import MAX_DOCUMENT_BYTES
from services.orchestrator.tool_gateway.adapters.openapi.parameters import (
    fill_operation_path,
    form_body,
    header_value,
    query_pairs,
)
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.pins import has_changed, refuse_changed
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    NotSent,
    OutcomeUnknown,
    RequestCredentials,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_gateway.rereads import Rereads
from services.orchestrator.tool_identity import digest_of

_KEPT_SOURCES = 64
_KEPT_SECONDS = 600.0

Operation = dict[str, Any]
"""As `compiler` makes it."""


class OpenApiAdapter:
    """Calls the operations of sources of the kind OPENAPI."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: RequestCredentials,
        parser: BoundedParser,
        *,
        max_result_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        """`parser` belongs to whoever closes it."""
        self._exchange = HttpExchange(egress, credentials, max_result_bytes=max_result_bytes)
        self._parser = parser
        self._operations: AsyncCache[str, dict[str, Operation]] = AsyncCache(_KEPT_SOURCES, _KEPT_SECONDS)
        self._rereads = Rereads()

    async def list_tools(self, source: ToolSourceSpec, principal: Principal) -> list[ListedTool]:
        """Read the document anew and return a tool for each chosen operation; see `ToolAdapter`.

        Raises:
            InvalidArgument: the document cannot be used, or lacks a chosen operation.
        """
        if problem := check_base_url(_document(source).base_url):
            raise InvalidArgument.field("spec.openapi.base_url", problem)
        key = _key(source, principal)
        self._operations.forget(key)
        try:
            found = await self._operations.get(key, lambda: self._read(source, principal))
        except CannotRead as error:
            raise InvalidArgument.field("spec.openapi.document", str(error)) from error
        return [_listed(source, operation) for operation in found.values()]

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Send the request of an operation once; see `ToolAdapter`."""
        assert request.source is not None
        operation = await self._operation(request, request.source)
        try:
            call = build_call(request.source, operation, request.arguments, request.call_id)
        except BadArgument as error:
            return ToolResult(str(error), is_error=True)
        return await self._exchange.make(request.source, _document(request.source).base_url, request, call, progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Say that HTTP has no way to ask what became of a request."""
        raise OutcomeUnknown("the request was sent, and HTTP has no way to ask what became of it")

    async def close(self) -> None:
        """End what is being read."""
        await self._operations.close()

    async def _operation(self, request: ToolCallRequest, source: ToolSourceSpec) -> Operation:
        """Return the operation that a call means, as the document describes it.

        Raises:
            CallRefused: there is none, or it has changed.
        """
        key = _key(source, request.principal)
        operation = (await self._known(source, request.principal)).get(request.tool)
        differs = operation is None or has_changed(request, _listed(source, operation))
        if differs and self._rereads.begin(key, request):
            # Another process of the gateway may have read the document since, and its change may be accepted.
            self._operations.forget(key)
            operation = (await self._known(source, request.principal)).get(request.tool)
        if operation is None:
            raise CallRefused(f"the document has no operation {request.tool}", reason="TOOL_NOT_FOUND")
        refuse_changed(request, _listed(source, operation))
        return operation

    async def _known(self, source: ToolSourceSpec, principal: Principal) -> dict[str, Operation]:
        try:
            return await self._operations.get(_key(source, principal), lambda: self._read(source, principal))
        except CannotRead as error:
            raise NotSent(f"the source's document cannot be used: {error}") from error
        except CoxswainError as error:
            raise NotSent(f"the source's document cannot be read: {error.message}") from error

    async def _read(self, source: ToolSourceSpec, principal: Principal) -> dict[str, Operation]:
        document = _document(source)
        text = document.document
        if not text:
            # The credential of the API is for its own origin alone.
            own = required_origin(document.url) == required_origin(document.base_url)
            data = await self._exchange.read(source if own else None, principal, document.url, MAX_DOCUMENT_BYTES)
            text = data.decode("utf-8", "replace")
        found = await self._parser.read(
            principal.group_id,
            "openapi",
            text=text,
            operations=list(document.operations),
            idempotency_header=document.idempotency_header,
        )
        return {operation["name"]: operation for operation in found["tools"]}


def build_call(source: ToolSourceSpec, operation: Operation, arguments: dict[str, Any], call_id: str) -> HttpCall:
    """Return the request of one call.

    Raises:
        BadArgument: an argument cannot be part of it.
    """
    bindings = operation["bindings"]
    url = _document(source).base_url.rstrip("/") + fill_operation_path(operation["path"], bindings, arguments)
    headers = {"Accept": "application/json, text/*;q=0.9, */*;q=0.5"}
    pairs: list[str] = []
    for binding in bindings:
        value = arguments.get(binding["argument"])
        if binding["in"] == "query":
            pairs += query_pairs(binding, value)
        elif binding["in"] == "header" and value is not None:
            headers[binding["name"]] = header_value(binding, value)
    # What the group has fixed is not the model's to choose.
    fixed = {name.lower() for name in source.headers}
    headers = {**{name: value for name, value in headers.items() if name.lower() not in fixed}, **source.headers}
    body = _body(operation["body"], arguments, headers)
    if operation["idempotency_header"]:
        headers[operation["idempotency_header"]] = call_id
    return HttpCall(operation["method"], f"{url}?{'&'.join(pairs)}" if pairs else url, headers, body)


def _body(given: dict[str, Any] | None, arguments: dict[str, Any], headers: dict[str, str]) -> bytes | None:
    if given is None or given["argument"] not in arguments:
        return None
    value, media_type = arguments[given["argument"]], given["media_type"]
    headers["Content-Type"] = media_type
    if media_type == "application/x-www-form-urlencoded":
        return form_body(value)
    return plain_text(value).encode() if media_type == "text/plain" else json_body(value)


def _listed(source: ToolSourceSpec, operation: Operation) -> ListedTool:
    sent = [operation[part] for part in ("method", "path", "bindings", "body", "idempotency_header")]
    return ListedTool(
        name=operation["name"],
        title=operation["title"],
        description=operation["description"],
        arguments_schema=operation["schema"],
        idempotent_hint=idempotent_hint(operation["method"], operation["idempotency_header"]),
        warnings=tuple(operation["warnings"]),
        call_digest=digest_of([_document(source).base_url, *sent]),
        call=http_call(operation["method"], _document(source).base_url, operation["path"]),
    )


def _document(source: ToolSourceSpec) -> OpenApiDocument:
    assert isinstance(source.endpoint, OpenApiDocument)
    return source.endpoint


def _key(source: ToolSourceSpec, principal: Principal) -> str:
    """Return what a document is kept by: it may look different to another group, user or credential."""
    document = _document(source)
    given = (principal.group_id, principal.subject if document.url else "", document, source.auth, source.name)
    return hashlib.sha256(repr(given).encode(errors="replace")).hexdigest()
