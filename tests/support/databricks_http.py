"""What the emulated Databricks REST services share: error form, callers and scopes, faults on demand, request log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tests.support.http_emulator import WAIT_SECONDS, Changes, Gate, HttpEmulator

JsonObject = dict[str, Any]

ALL_APIS = "all-apis"


class DatabricksError(Exception):
    """An API error: `{"error_code", "message"}` with its HTTP status."""

    def __init__(
        self, status: int, error_code: str | int, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.headers = dict(headers or {})


def invalid(message: str) -> DatabricksError:
    return DatabricksError(400, "INVALID_PARAMETER_VALUE", message)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a credential stands for, and what it may do (`scopes` None: everything, as a PAT)."""

    user_name: str
    scopes: frozenset[str] | None = None

    def may(self, *any_of: str) -> bool:
        return self.scopes is None or ALL_APIS in self.scopes or not self.scopes.isdisjoint(any_of)


Authenticate = Callable[[Mapping[str, str]], Caller]
"""From lower-case headers to the caller; raises DatabricksError."""


def bearer_token(headers: Mapping[str, str]) -> str:
    """The bearer token of lower-case `headers`; DatabricksError 401 without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise DatabricksError(401, 401, "Credential was not sent or was of an unsupported type for this API.")
    return token


class ApiFault(BaseModel):
    """What is to go wrong with requests, the next `times` that match (None: all of them)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    """Substring of the path."""
    method: str | None = None
    times: int | None = Field(default=1, ge=1)
    status: int | None = Field(default=None, ge=200, le=599)
    """None: the request is served after the delay or release."""
    error_code: str | int | None = None
    message: str = "fault on demand"
    retry_after: str | None = None
    body: str | None = None
    """Sent instead of the JSON error when given."""
    delay_s: float = Field(default=0.0, ge=0.0)
    hang: bool = False
    """Wait for `release` first."""
    drop: bool = False
    """Close the connection without an answer."""
    after_effect: bool = False
    """Serve the request, then answer with the fault all the same: what was asked is done, the client cannot know."""


_FAULTS: TypeAdapter[list[ApiFault]] = TypeAdapter(list[ApiFault])

_STATUS_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_ALREADY_EXISTS",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(slots=True)
class Exchange:
    """One request and what became of it. Headers and body stay out of the repr: they carry secrets."""

    number: int
    method: str
    path: str
    query: list[tuple[str, str]]
    received_at: float
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    body: Any = field(repr=False)
    """Parsed JSON, parsed form, or None."""
    body_bytes: int = 0
    caller: str | None = None
    status: int | None = None
    outcome: Literal["open", "answered", "dropped", "client_disconnected", "stopped"] = "open"
    held: bool = False

    def as_json(self) -> JsonObject:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


Handler = Callable[[Exchange, web.Request], "JsonObject | web.Response"]
"""Synchronous, so that each request changes the emulator's state as one step."""


class DatabricksEmulator(HttpEmulator):
    """Base of the REST emulators: every handler is logged, may be made to fail, and answers errors in one form.

    `integer_error_codes`: errors carry their HTTP status as `error_code`, as parts of the real platform do.
    Control routes under `control_prefix`: `GET` and `DELETE /_log`, `POST /_faults`, `DELETE /_faults`,
    `POST /_release`.
    """

    def __init__(self, *, host: str, port: int, control_prefix: str, record: bool) -> None:
        super().__init__(host=host, port=port)
        self.log: list[Exchange] = []
        self.integer_error_codes = False
        self._control_prefix = control_prefix
        self._record = record
        self._numbered = 0
        self._changes = Changes()
        self._gate = Gate()
        self._faults: list[tuple[ApiFault, list[int]]] = []

    def fail(self, fault: ApiFault) -> None:
        """Make requests that match go wrong; earlier faults come first."""
        self._faults.append((fault, [0]))

    def clear_faults(self) -> None:
        self._faults.clear()

    def release(self) -> int:
        """Let requests that hang go on; returns how many there were."""
        return self._gate.release()

    def let_go(self) -> None:
        for exchange in self.log:
            if exchange.outcome == "open":
                exchange.outcome = "stopped"
        self.release()

    def clear_log(self) -> None:
        self.log.clear()

    def requests(self, *, path: str = "", **equal: Any) -> list[Exchange]:
        """Logged requests whose path contains `path` and whose attributes equal `equal`."""
        return [e for e in list(self.log) if path in e.path and all(getattr(e, name) == v for name, v in equal.items())]

    async def wait_for_requests(
        self, count: int, *, timeout: float = WAIT_SECONDS, path: str = "", **equal: Any
    ) -> list[Exchange]:
        """Wait until `requests(...)` has `count` entries; TimeoutError after `timeout` seconds."""
        await self._changes.wait(lambda: len(self.requests(path=path, **equal)) >= count, timeout)
        return self.requests(path=path, **equal)

    def wait_for_requests_sync(
        self, count: int, *, timeout: float = WAIT_SECONDS, path: str = "", **equal: Any
    ) -> list[Exchange]:
        """`wait_for_requests` for code without an event loop."""
        self._changes.wait_sync(lambda: len(self.requests(path=path, **equal)) >= count, timeout)
        return self.requests(path=path, **equal)

    def control_routes(self) -> list[web.RouteDef]:
        prefix = self._control_prefix
        return [
            web.get(f"{prefix}/_log", self._get_log),
            web.delete(f"{prefix}/_log", self._delete_log),
            web.post(f"{prefix}/_faults", self._post_faults),
            web.delete(f"{prefix}/_faults", self._delete_faults),
            web.post(f"{prefix}/_release", self._post_release),
        ]

    def api(self, method: str, path: str, handler: Handler) -> web.RouteDef:
        """A route whose requests are logged and may be made to fail."""

        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._serve(request, handler)

        return web.route(method, path, serve)

    def check_request(self, exchange: Exchange) -> None:
        """Refuse a request before its handler runs, by DatabricksError."""

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        raw = await request.read()
        exchange = self._log_request(request, raw)
        try:
            fault = self._take_fault(request)
            if fault is not None and not fault.after_effect:
                await self._wait_out(exchange, fault)
                if fault.drop or fault.status is not None:
                    return self._fault_answer(request, exchange, fault)
            response = self._handled(exchange, request, handler)
            if fault is not None and fault.after_effect:
                await self._wait_out(exchange, fault)
                return self._fault_answer(request, exchange, fault)
            return response
        except (asyncio.CancelledError, ConnectionError):
            if exchange.outcome == "open":
                exchange.outcome = "client_disconnected"
            raise
        finally:
            if exchange.outcome == "open":
                exchange.outcome = "answered"
            self._changes.notify()

    def _handled(self, exchange: Exchange, request: web.Request, handler: Handler) -> web.Response:
        try:
            self.check_request(exchange)
            payload = handler(exchange, request)
        except DatabricksError as error:
            exchange.status = error.status
            return self._error(error)
        response = payload if isinstance(payload, web.Response) else web.json_response(payload)
        exchange.status = response.status
        return response

    def _log_request(self, request: web.Request, raw: bytes) -> Exchange:
        self._numbered += 1
        exchange = Exchange(
            number=self._numbered,
            method=request.method,
            path=request.path,
            query=list(request.query.items()),
            received_at=time.time(),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=_parsed(request, raw),
            body_bytes=len(raw),
        )
        if self._record:
            self.log.append(exchange)
            self._changes.notify()
        return exchange

    def _take_fault(self, request: web.Request) -> ApiFault | None:
        for fault, used in self._faults:
            if fault.path is not None and fault.path not in request.path:
                continue
            if fault.method is not None and fault.method != request.method:
                continue
            if fault.times is not None and used[0] >= fault.times:
                continue
            used[0] += 1
            return fault
        return None

    async def _wait_out(self, exchange: Exchange, fault: ApiFault) -> None:
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.hang:

            def held() -> None:
                exchange.held = True
                self._changes.notify()

            try:
                await self._gate.hold(held)
            finally:
                exchange.held = False

    def _fault_answer(self, request: web.Request, exchange: Exchange, fault: ApiFault) -> web.Response:
        if fault.drop or fault.status is None:
            exchange.outcome = "dropped"
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        exchange.status = fault.status
        headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
        if fault.body is not None:
            return web.Response(text=fault.body, status=fault.status, headers=headers, content_type="text/html")
        code = fault.error_code if fault.error_code is not None else _STATUS_CODES.get(fault.status, "UNKNOWN")
        return self._error(DatabricksError(fault.status, code, fault.message, headers=headers))

    def _error(self, error: DatabricksError) -> web.Response:
        code = error.status if self.integer_error_codes else error.error_code
        body = {"error_code": code, "message": error.message}
        return web.json_response(body, status=error.status, headers=error.headers)

    async def _get_log(self, request: web.Request) -> web.Response:
        at_least = int(request.query.get("at_least", "0"))
        timeout = float(request.query.get("timeout", str(WAIT_SECONDS)))
        try:
            await self._changes.wait(lambda: len(self.log) >= at_least, timeout)
        except TimeoutError as error:
            return web.json_response({"error": str(error)}, status=408)
        return web.json_response({"requests": [exchange.as_json() for exchange in self.log]})

    async def _delete_log(self, _: web.Request) -> web.Response:
        self.clear_log()
        return web.json_response({})

    async def _post_faults(self, request: web.Request) -> web.Response:
        try:
            faults = _FAULTS.validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": error.errors(include_url=False, include_input=False)}, status=400)
        for fault in faults:
            self.fail(fault)
        return web.json_response({"added": len(faults)})

    async def _delete_faults(self, _: web.Request) -> web.Response:
        self.clear_faults()
        return web.json_response({})

    async def _post_release(self, _: web.Request) -> web.Response:
        return web.json_response({"released": self.release()})


def _parsed(request: web.Request, raw: bytes) -> Any:
    if not raw:
        return None
    if request.content_type == "application/x-www-form-urlencoded":
        return dict(parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True))
    try:
        return read_json(raw)
    except ValueError:
        return None


def read_json(text: str | bytes) -> Any:
    """Parse JSON as the platform does: NaN and Infinity, which Python lets pass, are ValueError."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def json_body(exchange: Exchange) -> JsonObject:
    """The request's JSON object; DatabricksError 400 when it is not one."""
    if not isinstance(exchange.body, dict):
        raise DatabricksError(400, "MALFORMED_REQUEST", "Could not parse request object: expected a JSON object")
    return exchange.body
