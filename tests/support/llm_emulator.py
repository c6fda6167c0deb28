"""An OpenAI-compatible LLM upstream on loopback, scriptable, with a log of its calls.

    with LlmEmulator() as llm:                       # own thread; `async with` serves in the running loop
        llm.on(Reply(text="Paris"), contains="capital of France")
        ...
        llm.wait_for_calls_sync(1)
        assert llm.calls[0].bearer == "the key"

From another process: `python -m tests.support.llm_emulator --port 8090`, then `GET /_log` (`?at_least=2&timeout=10`
waits), `DELETE /_log`, `POST /_rules` with `[{"when": {...}, "reply": {...}}]`, `DELETE /_rules`, `POST /_release`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from tests.support.http_emulator import WAIT_SECONDS, Changes, Gate, HttpEmulator, serve_until_cancelled
from tests.support.llm_replies import (
    Completion,
    JsonObject,
    SchemaError,
    build_completion,
    content_text,
    split_tokens,
)
from tests.support.llm_requests import ChatBody, EmbeddingBody, Message
from tests.support.llm_script import CallFacts, Fault, Reply, Route, Rule, Script, When
from tests.support.text_vectors import embed_text

DEFAULT_MODELS = ("emulated-chat", "emulated-embed")
DEFAULT_DIMENSIONS = 256

Dialect = Literal["openai", "databricks"]
Outcome = Literal["open", "answered", "faulted", "dropped", "client_disconnected", "stopped"]

_RULES: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])


class Refused(Exception):
    """A call answered with an HTTP error in its dialect."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


@dataclass(slots=True)
class Call:
    """One call as it arrived, and what became of it. Headers and body stay out of the repr: they carry secrets."""

    number: int
    route: Route
    path: str
    model: str
    received_at: float
    """Seconds since the epoch."""
    stream: bool
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    body: Any = field(repr=False)
    status: int | None = None
    outcome: Outcome = "open"
    hanging: bool = False
    chunks_sent: int = 0
    ended_at: float | None = None

    @property
    def bearer(self) -> str | None:
        return bearer_of(self.headers)

    @property
    def client_disconnected(self) -> bool:
        """Whether the client went away before the answer's end."""
        return self.outcome == "client_disconnected"

    def as_json(self) -> JsonObject:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "client_disconnected": self.client_disconnected
        }


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """The token of an authorization header (`headers` in lower case), or None without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


class LlmEmulator(HttpEmulator):
    """The emulator. State may be read and scripted from any thread.

    `accepted_keys`: bearer tokens that are let in (None: every call). `authorise` replaces that check; it gets the
    lower-case headers and raises `Refused`. `strict_models`: calls naming a model that is not in `models` get 404.
    `record=False` keeps no log, for benchmarks.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        models: Iterable[str] = DEFAULT_MODELS,
        dimensions: Mapping[str, int] | None = None,
        accepted_keys: Iterable[str] | None = None,
        authorise: Callable[[Mapping[str, str]], None] | None = None,
        strict_models: bool = False,
        record: bool = True,
        control_prefix: str = "",
    ) -> None:
        super().__init__(host=host, port=port)
        self.models = list(models)
        self.dimensions = dict(dimensions or {})
        self.accepted_keys = None if accepted_keys is None else set(accepted_keys)
        self.calls: list[Call] = []
        self._authorise = authorise or self._check_key
        self._strict_models = strict_models
        self._record = record
        self._control_prefix = control_prefix
        self._script = Script()
        self._changes = Changes()
        self._gate = Gate()
        self._numbered = 0

    # Scripting and the log

    def on(self, reply: Reply, **when: Any) -> None:
        """Answer calls that meet `when` (fields of `When`) with `reply`; earlier rules come first."""
        self.add_rule(Rule(when=When(**when), reply=reply))

    def add_rule(self, rule: Rule) -> None:
        self._script.add(rule)

    def clear_rules(self) -> None:
        self._script.clear()

    def clear_log(self) -> None:
        self.calls.clear()

    def release(self) -> int:
        """Let every call that hangs now go on; returns how many there were."""
        return self._gate.release()

    def let_go(self) -> None:
        for call in self.calls:
            if call.outcome == "open":
                call.outcome = "stopped"
        self.release()

    def calls_where(self, **when: Any) -> list[Call]:
        """Logged calls whose attributes equal `when`, for example `route="chat", model="m"`."""
        return [c for c in list(self.calls) if all(getattr(c, name) == value for name, value in when.items())]

    async def wait_for_calls(self, count: int, *, timeout: float = WAIT_SECONDS, **when: Any) -> list[Call]:
        """Wait until `count` logged calls have attributes equal to `when`; TimeoutError after `timeout` seconds."""
        await self._changes.wait(lambda: len(self.calls_where(**when)) >= count, timeout)
        return self.calls_where(**when)

    def wait_for_calls_sync(self, count: int, *, timeout: float = WAIT_SECONDS, **when: Any) -> list[Call]:
        """`wait_for_calls` for code without an event loop."""
        self._changes.wait_sync(lambda: len(self.calls_where(**when)) >= count, timeout)
        return self.calls_where(**when)

    # Routes

    def install(self, app: web.Application) -> None:
        control = self._control_prefix
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._openai_chat),
                web.post("/v1/embeddings", self._openai_embeddings),
                web.get("/v1/models", self._list_models),
                web.post("/serving-endpoints/chat/completions", self._databricks_chat),
                web.post("/serving-endpoints/embeddings", self._databricks_embeddings),
                web.post("/serving-endpoints/{name}/invocations", self._invocations),
                web.get(f"{control}/_log", self._get_log),
                web.delete(f"{control}/_log", self._delete_log),
                web.post(f"{control}/_rules", self._post_rules),
                web.delete(f"{control}/_rules", self._delete_rules),
                web.post(f"{control}/_release", self._post_release),
            ]
        )

    async def _get_log(self, request: web.Request) -> web.Response:
        at_least = int(request.query.get("at_least", "0"))
        timeout = float(request.query.get("timeout", str(WAIT_SECONDS)))
        try:
            await self._changes.wait(lambda: len(self.calls) >= at_least, timeout)
        except TimeoutError as error:
            return web.json_response({"error": str(error)}, status=408)
        return web.json_response({"calls": [call.as_json() for call in self.calls]})

    async def _delete_log(self, _: web.Request) -> web.Response:
        self.clear_log()
        return web.json_response({})

    async def _post_rules(self, request: web.Request) -> web.Response:
        try:
            rules = _RULES.validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": error.errors(include_url=False, include_input=False)}, status=400)
        for rule in rules:
            self.add_rule(rule)
        return web.json_response({"added": len(rules)})

    async def _delete_rules(self, _: web.Request) -> web.Response:
        self.clear_rules()
        return web.json_response({})

    async def _post_release(self, _: web.Request) -> web.Response:
        return web.json_response({"released": self.release()})

    async def _openai_chat(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, "chat", "openai")

    async def _openai_embeddings(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, "embeddings", "openai")

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, "models", "openai")

    async def _databricks_chat(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, "chat", "databricks")

    async def _databricks_embeddings(self, request: web.Request) -> web.StreamResponse:
        return await self._handle(request, "embeddings", "databricks")

    async def _invocations(self, request: web.Request) -> web.StreamResponse:
        body = _decoded(await request.read())
        route: Route = "embeddings" if isinstance(body, dict) and "input" in body else "chat"
        return await self._handle(request, route, "databricks", model=request.match_info["name"])

    # One call

    async def _handle(
        self, request: web.Request, route: Route, dialect: Dialect, *, model: str | None = None
    ) -> web.StreamResponse:
        raw = await request.read()
        body = _decoded(raw) if raw else {}
        fields = body if isinstance(body, dict) else {}
        if model is None:
            model = fields["model"] if isinstance(fields.get("model"), str) else ""
        call = self._log_call(request, route, model, body)
        try:
            self._authorise(call.headers)
            if route != "models":
                _check_body(route, body)
                self._check_model(model)
            reply = self._script.reply_to(_facts(call))
            return await self._answer(request, call, reply, dialect)
        except Refused as refused:
            call.outcome = "faulted"
            call.status = refused.status
            return _error_response(refused, dialect)
        except (asyncio.CancelledError, ConnectionError):
            if call.outcome == "open":
                call.outcome = "client_disconnected"
            raise
        finally:
            call.ended_at = time.time()
            if call.outcome == "open":
                call.outcome = "answered"
            self._changes.notify()

    def _log_call(self, request: web.Request, route: Route, model: str, body: Any) -> Call:
        self._numbered += 1
        call = Call(
            number=self._numbered,
            route=route,
            path=request.path,
            model=model,
            received_at=time.time(),
            stream=isinstance(body, dict) and bool(body.get("stream")),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
        )
        if self._record:
            self.calls.append(call)
            self._changes.notify()
        return call

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self.accepted_keys is not None and bearer_of(headers) not in self.accepted_keys:
            raise Refused(401, "invalid_api_key", "Incorrect API key provided.")

    def _check_model(self, model: str) -> None:
        if not model:
            raise Refused(400, "missing_required_parameter", "you must provide a model parameter")
        if self._strict_models and model not in self.models:
            raise Refused(404, "model_not_found", f"The model `{model}` does not exist")

    async def _answer(self, request: web.Request, call: Call, reply: Reply, dialect: Dialect) -> web.StreamResponse:
        if reply.latency_s:
            await asyncio.sleep(reply.latency_s)
        if reply.hang:
            await self._hold(call)
        if reply.drop:
            return self._drop(request, call, web.Response())
        if reply.fault is not None:
            return _fault_response(call, reply.fault, dialect)
        call.status = 200
        if reply.raw_body is not None:
            return web.Response(text=reply.raw_body, content_type="text/html")
        if call.route == "models":
            return web.json_response({"object": "list", "data": [_model_row(name) for name in self.models]})
        if call.route == "embeddings":
            return web.json_response(self._embeddings(call, reply))
        try:
            completion = build_completion(call.number, call.model, call.body, reply)
        except SchemaError as error:
            raise Refused(400, "invalid_json_schema", str(error)) from None
        if call.stream:
            return await self._stream(request, call, reply, completion, dialect)
        if reply.cut_after_bytes is not None:
            return await self._cut(request, call, json.dumps(completion.message_body()).encode(), reply.cut_after_bytes)
        return web.json_response(completion.message_body())

    async def _cut(self, request: web.Request, call: Call, body: bytes, size: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[:size])
        return self._drop(request, call, response)

    async def _hold(self, call: Call) -> None:
        def held() -> None:
            call.hanging = True
            self._changes.notify()

        try:
            await self._gate.hold(held)
        finally:
            call.hanging = False

    def _drop(self, request: web.Request, call: Call, response: web.StreamResponse) -> web.StreamResponse:
        call.outcome = "dropped"
        if request.transport is not None:
            # close, not abort: what was written still arrives, so that a test knows what the client has seen.
            request.transport.close()
        return response

    async def _stream(
        self, request: web.Request, call: Call, reply: Reply, completion: Completion, dialect: Dialect
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await _write_event(response, reply, _dumped(completion.opening_chunk()))
        chunks = completion.content_chunks()
        for position in range(len(chunks) + 1):
            last = position == len(chunks)
            if _due(reply.malformed_after_chunks, position, last):
                await _write_event(response, reply, "{this is no json")
            if _due(reply.error_after_chunks, position, last):
                error = _error_body(500, "internal_error", "stream failed on demand", dialect)
                await _write_event(response, reply, _dumped(error))
                call.outcome = "faulted"
                return response
            if _due(reply.hang_after_chunks, position, last):
                await self._hold(call)
            if _due(reply.drop_after_chunks, position, last):
                return self._drop(request, call, response)
            if last:
                break
            if reply.token_delay_s:
                await asyncio.sleep(reply.token_delay_s)
            await _write_event(response, reply, _dumped(chunks[position]))
            call.chunks_sent += 1
            self._changes.notify()
        options = call.body.get("stream_options") or {}
        for chunk in completion.closing_chunks(include_usage=bool(options.get("include_usage"))):
            await _write_event(response, reply, _dumped(chunk))
        if not reply.omit_done:
            await _write_event(response, reply, "[DONE]")
        await response.write_eof()
        return response

    def _embeddings(self, call: Call, reply: Reply) -> JsonObject:
        texts = _embedding_inputs(call.body["input"])
        size = call.body.get("dimensions") or self.dimensions.get(call.model, DEFAULT_DIMENSIONS)
        vectors = reply.vectors if reply.vectors is not None else [embed_text(text, size) for text in texts]
        as_base64 = call.body.get("encoding_format") == "base64"
        tokens = reply.usage.prompt_tokens if reply.usage else sum(len(split_tokens(text)) for text in texts)
        return {
            "object": "list",
            "model": call.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": _as_base64(vector) if as_base64 else vector}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def _due(after: int | None, position: int, last: bool) -> bool:
    """Whether something set for "after n chunks" is due now; one set past the end is due at the end."""
    return after is not None and (after == position or (last and after > position))


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _dumped(payload: JsonObject) -> str:
    return json.dumps(payload, ensure_ascii=False)


async def _write_event(response: web.StreamResponse, reply: Reply, data: str) -> None:
    end = "\r\n" if reply.crlf else "\n"
    comment = f": still working{end}{end}" if reply.comments else ""
    # A lone surrogate, which JSON can carry, has no UTF-8 form.
    raw = f"{comment}data: {data}{end}{end}".encode("utf-8", "replace")
    size = reply.fragment_bytes or len(raw)
    for start in range(0, len(raw), size):
        await response.write(raw[start : start + size])


def _as_base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _model_row(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 0, "owned_by": "emulator"}


def _facts(call: Call) -> CallFacts:
    texts: tuple[str, ...] = ()
    last_role = ""
    tools: frozenset[str] = frozenset()
    if call.route == "chat":
        messages = call.body["messages"]
        texts = tuple(content_text(message.get("content")) for message in messages)
        last_role = messages[-1]["role"]
        tools = frozenset(tool["function"]["name"] for tool in call.body.get("tools") or [])
    elif call.route == "embeddings":
        texts = tuple(_embedding_inputs(call.body["input"]))
    return CallFacts(
        route=call.route,
        model=call.model,
        texts=texts,
        last_text=texts[-1] if texts else "",
        last_role=last_role,
        tools=tools,
        stream=call.stream,
        bearer=call.bearer,
        fields=frozenset(call.body) if isinstance(call.body, dict) else frozenset(),
    )


def _embedding_inputs(given: Any) -> list[str]:
    """Inputs as texts; token arrays become their decimal words."""
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, int) for item in given):
        return [" ".join(map(str, given))]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in given]


def _invalid(message: str, code: str = "invalid_value") -> Refused:
    return Refused(400, code, message)


def _check_body(route: Route, body: Any) -> None:
    if not isinstance(body, dict):
        raise _invalid("We could not parse the JSON body of your request.", "invalid_json")
    try:
        if route == "embeddings":
            EmbeddingBody.model_validate(body)
        else:
            _check_messages(ChatBody.model_validate(body).messages)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise _invalid(f"Invalid '{where}': {first['msg']}") from None


def _check_messages(messages: list[Message]) -> None:
    """The order real upstreams insist on: every tool result answers a call, every call is answered."""
    awaited: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in awaited:
                raise _invalid(f"messages[{index}]: a 'tool' message must answer a preceding 'tool_calls' message")
            awaited.discard(message.tool_call_id)
            continue
        if awaited:
            raise _invalid(f"messages[{index}]: tool calls without an answer: {sorted(awaited)}")
        calls = message.tool_calls or []
        if message.content is None and not calls:
            raise _invalid(f"messages[{index}]: 'content' is required")
        awaited = {call.id for call in calls}
    if awaited:
        raise _invalid(f"tool calls without an answer: {sorted(awaited)}")


def _error_body(status: int, code: str, message: str, dialect: Dialect) -> JsonObject:
    if dialect == "databricks":
        return {"error_code": code.upper(), "message": message}
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _error_response(refused: Refused, dialect: Dialect) -> web.Response:
    body = _error_body(refused.status, refused.code, refused.message, dialect)
    return web.json_response(body, status=refused.status, headers=refused.headers)


def _fault_response(call: Call, fault: Fault, dialect: Dialect) -> web.Response:
    call.status = fault.status
    call.outcome = "faulted"
    headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
    if fault.body is not None:
        return web.Response(text=fault.body, status=fault.status, headers=headers, content_type="text/html")
    code = fault.code or {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(fault.status, "fault_on_demand")
    return _error_response(Refused(fault.status, code, fault.message, headers), dialect)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an OpenAI-compatible LLM emulator on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (printed)")
    parser.add_argument("--no-log", action="store_true", help="keep no log of calls")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve_until_cancelled(LlmEmulator(port=arguments.port, record=not arguments.no_log)))


if __name__ == "__main__":
    main()
