"""LLM upstreams on loopback, scriptable, with a log of their calls: every wire of `llm_wires` on one port.

    with LlmEmulator() as llm:                       # own thread; `async with` serves in the running loop
        llm.on(Reply(text="Paris"), contains="capital of France")
        ...
        llm.wait_for_calls_sync(1)
        assert llm.calls[0].bearer == "the key"

OpenAI's wire is at `llm.url`, with Databricks' beside it; the others are at `llm.url_of("anthropic")` and so on.
From another process: `python -m tests.support.llm_emulator --port 8090`, then `GET /_log` (`?at_least=2&timeout=10`
waits), `DELETE /_log`, `POST /_rules` with `[{"when": {...}, "reply": {...}}]`, `DELETE /_rules`, `POST /_release`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from tests.support.http_emulator import WAIT_SECONDS, Changes, Gate, HttpEmulator, serve_until_cancelled
from tests.support.llm_replies import Completion, JsonObject, SchemaError, build_completion, content_text, split_tokens
from tests.support.llm_requests import ChatBody
from tests.support.llm_script import CallFacts, Fault, Reply, Route, Rule, Script, When
from tests.support.llm_wires.anthropic import AnthropicWire
from tests.support.llm_wires.azure import AzureWire
from tests.support.llm_wires.base import Asked, Endpoint, Event, Incoming, Refused, Wire, bearer_of, dumped
from tests.support.llm_wires.databricks import DatabricksWire
from tests.support.llm_wires.gemini import GeminiOpenAIWire, GeminiWire
from tests.support.llm_wires.ollama import OllamaOpenAIWire, OllamaWire
from tests.support.llm_wires.openai import OpenAIWire
from tests.support.llm_wires.openrouter import OpenRouterWire
from tests.support.llm_wires.vllm import VllmWire
from tests.support.text_vectors import embed_text

DEFAULT_MODELS = ("emulated-chat", "emulated-embed")
DEFAULT_DIMENSIONS = 256

Outcome = Literal["open", "answered", "faulted", "dropped", "client_disconnected", "stopped"]

_RULES: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])


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
    wire: str = "openai"
    query: dict[str, str] = field(default_factory=dict, repr=False)
    key: str | None = field(default=None, repr=False)
    """The credential, wherever the wire has it."""
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


def _wires() -> list[Wire]:
    return [
        OpenAIWire(),
        AzureWire(),
        DatabricksWire(),
        AnthropicWire(),
        GeminiWire(),
        GeminiOpenAIWire(),
        OllamaWire(),
        OllamaOpenAIWire(),
        VllmWire(),
        OpenRouterWire(),
    ]


class _Cut(Exception):
    """The connection is to be closed here."""


class LlmEmulator(HttpEmulator):
    """The emulator. State may be read and scripted from any thread.

    `accepted_keys`: credentials that are let in (None: every call). `authorise` replaces that check; it gets the
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
        self._authorise = authorise
        self._strict_models = strict_models
        self._record = record
        self._control_prefix = control_prefix
        self._script = Script()
        self._changes = Changes()
        self._gate = Gate()
        self._numbered = 0
        self._wires = {wire.name: wire for wire in _wires()}

    def url_of(self, wire: str) -> str:
        """Where a wire's own paths begin, without a trailing slash."""
        return f"{self.url}{self._wires[wire].prefix}"

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
        for wire in self._wires.values():
            for endpoint in wire.endpoints():
                handler = partial(self._handle, wire, endpoint)
                app.router.add_route(endpoint.method, f"{wire.prefix}{endpoint.path}", handler)
        app.add_routes(
            [
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

    # One call

    async def _handle(self, wire: Wire, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        incoming = Incoming(
            endpoint=endpoint,
            path=dict(request.match_info),
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=_decoded(raw) if raw else {},
        )
        route = wire.route_of(incoming)
        call = self._log_call(request, wire, incoming, route)
        try:
            self._check_caller(wire, call)
            asked = Asked()
            if route != "models":
                asked = _read(wire, incoming, route)
                self._check_model(wire, call.model)
            reply = self._script.reply_to(_facts(call, asked))
            return await self._answer(request, wire, call, asked, reply)
        except Refused as refused:
            call.outcome = "faulted"
            call.status = refused.status
            fault = Fault(status=refused.status, code=refused.code, message=refused.message)
            body = wire.error(fault, streamed=call.stream)
            return web.json_response(body, status=refused.status, headers=refused.headers)
        except (asyncio.CancelledError, ConnectionError):
            if call.outcome == "open":
                call.outcome = "client_disconnected"
            raise
        finally:
            call.ended_at = time.time()
            if call.outcome == "open":
                call.outcome = "answered"
            self._changes.notify()

    def _log_call(self, request: web.Request, wire: Wire, incoming: Incoming, route: Route) -> Call:
        self._numbered += 1
        call = Call(
            number=self._numbered,
            route=route,
            path=request.path,
            model=wire.model(incoming),
            received_at=time.time(),
            stream=route == "chat" and wire.streams(incoming),
            headers=dict(incoming.headers),
            body=incoming.body,
            wire=wire.name,
            query=dict(incoming.query),
            key=wire.key(incoming),
        )
        if self._record:
            self.calls.append(call)
            self._changes.notify()
        return call

    def _check_caller(self, wire: Wire, call: Call) -> None:
        if self._authorise is not None:
            self._authorise(call.headers)
        elif (wire.needs_key and not call.key) or (
            self.accepted_keys is not None and call.key not in self.accepted_keys
        ):
            raise wire.refused_key(call.key)

    def _check_model(self, wire: Wire, model: str) -> None:
        if not model:
            raise Refused(400, "missing_required_parameter", "you must provide a model parameter")
        if self._strict_models and model not in self.models:
            raise wire.unknown_model(model)

    async def _answer(
        self, request: web.Request, wire: Wire, call: Call, asked: Asked, reply: Reply
    ) -> web.StreamResponse:
        if reply.latency_s:
            await asyncio.sleep(reply.latency_s)
        if reply.hang:
            await self._hold(call)
        if reply.cut_headers and request.transport is not None:
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
        if reply.drop or reply.cut_headers:
            return self._drop(request, call, web.Response())
        if reply.fault is not None:
            return await self._fail(request, wire, call, reply, reply.fault)
        call.status = 200
        if reply.raw_body is not None:
            call.status = reply.raw_status
            return await self._send(request, call, reply, reply.raw_body, content_type=reply.raw_label)
        if call.route == "chat":
            try:
                completion = build_completion(call.number, call.model, asked.chat, reply)
            except SchemaError as error:
                raise Refused(400, "invalid_json_schema", str(error)) from None
            if call.stream:
                return await self._stream(request, wire, call, asked, completion)
            document = wire.whole(asked, completion)
        elif call.route == "models":
            document = wire.models(self.models)
        elif call.route == "count":
            messages = asked.chat["messages"]
            document = wire.count(sum(len(split_tokens(content_text(m.get("content")))) for m in messages))
        else:
            size = asked.dimensions or self.dimensions.get(call.model, DEFAULT_DIMENSIONS)
            texts = asked.texts
            vectors = reply.vectors if reply.vectors is not None else [embed_text(text, size) for text in texts]
            tokens = reply.usage.prompt_tokens if reply.usage else sum(len(split_tokens(text)) for text in texts)
            document = wire.embeddings(call.model, asked, vectors, tokens)
        return await self._send(request, call, reply, dumped(document))

    async def _fail(
        self, request: web.Request, wire: Wire, call: Call, reply: Reply, fault: Fault
    ) -> web.StreamResponse:
        call.status = fault.sent_as or fault.status
        call.outcome = "faulted"
        headers = wire.error_headers(fault)
        if fault.body is not None:
            return web.Response(text=fault.body, status=call.status, headers=headers, content_type="text/html")
        if call.stream and call.status == 200:
            text = wire.frame(wire.error_event(fault, None), "\n")
            return await self._send(request, call, reply, text, content_type=wire.stream_type, headers=headers)
        text = dumped(wire.error(fault, streamed=call.stream))
        return await self._send(request, call, reply, text, headers=headers)

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

    async def _open(
        self, request: web.Request, call: Call, reply: Reply, headers: Mapping[str, str], length: int | None = None
    ) -> web.StreamResponse:
        packed = {"Content-Encoding": "gzip"} if reply.gzip else {}
        response = web.StreamResponse(status=call.status or 200, headers={**headers, **packed})
        response.content_length = length
        writer = await response.prepare(request)
        if writer is not None and (reply.hang_after_headers or reply.cut_after_bytes == 0):
            # They would wait for the first byte of the body.
            writer.send_headers()
        if reply.hang_after_headers:
            await self._hold(call)
        return response

    async def _send(
        self,
        request: web.Request,
        call: Call,
        reply: Reply,
        text: str,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Send a body that is known as a whole."""
        body = text.encode("utf-8", "replace")
        if reply.gzip:
            body = _pack(body)
        types = {"Content-Type": f"{content_type}; charset=utf-8"}
        response = await self._open(request, call, reply, {**types, **(headers or {})}, len(body))
        writer = _Writer(response, reply, partial(self._hold, call), packs=False)
        try:
            await writer.write(body)
        except _Cut:
            return self._drop(request, call, response)
        await response.write_eof()
        return response

    async def _stream(
        self, request: web.Request, wire: Wire, call: Call, asked: Asked, completion: Completion
    ) -> web.StreamResponse:
        reply = completion.reply
        response = await self._open(
            request, call, reply, {"Content-Type": wire.stream_type, "Cache-Control": "no-cache"}
        )
        writer = _Writer(response, reply, partial(self._hold, call), packs=reply.gzip)
        try:
            await self._write_stream(wire, call, asked, completion, writer)
        except _Cut:
            return self._drop(request, call, response)
        await writer.close()
        await response.write_eof()
        return response

    async def _write_stream(
        self, wire: Wire, call: Call, asked: Asked, completion: Completion, writer: _Writer
    ) -> None:
        reply = completion.reply
        end = "\r\n" if reply.crlf else "\n"

        async def write(events: Iterable[Event]) -> None:
            for event in events:
                kept = wire.keep_alive(end) if reply.comments else ""
                await writer.write((kept + wire.frame(event, end)).encode())

        await write(wire.opening(asked, completion))
        chunks = wire.content(asked, completion)
        for position in range(len(chunks) + 1):
            last = position == len(chunks)
            if _due(reply.malformed_after_chunks, position, last):
                await writer.write(wire.malformed(end).encode())
            if _due(reply.error_after_chunks, position, last):
                await write([wire.error_event(reply.error, completion)])
                call.outcome = "faulted"
                return
            if _due(reply.hang_after_chunks, position, last):
                await self._hold(call)
            if _due(reply.drop_after_chunks, position, last):
                raise _Cut
            if last:
                break
            if reply.token_delay_s:
                await asyncio.sleep(reply.token_delay_s)
            await write(chunks[position])
            call.chunks_sent += 1
            self._changes.notify()
        await write(wire.closing(asked, completion))
        if wire.end and not reply.omit_done:
            await writer.write(f"data: {wire.end}{end}{end}".encode())


class _Writer:
    """Writes a body as the reply says: packed, in fragments, cut, with a pause."""

    def __init__(
        self, response: web.StreamResponse, reply: Reply, hold: Callable[[], Awaitable[None]], *, packs: bool
    ) -> None:
        self._response = response
        self._hold = hold
        self._until_pause = reply.hang_after_bytes
        self._fragment = reply.fragment_bytes
        self._left = reply.cut_after_bytes
        self._packer = zlib.compressobj(wbits=31) if packs else None

    async def write(self, data: bytes) -> None:
        """Write; raises _Cut where the connection is to be closed."""
        if self._packer is not None:
            data = self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        if self._until_pause is not None:
            if len(data) >= self._until_pause:
                await self._response.write(data[: self._until_pause])
                data, self._until_pause = data[self._until_pause :], None
                await self._hold()
            else:
                self._until_pause -= len(data)
        if self._left is not None and len(data) >= self._left:
            await self._response.write(data[: self._left])
            raise _Cut
        if self._left is not None:
            self._left -= len(data)
        size = self._fragment or len(data) or 1
        for start in range(0, len(data), size):
            await self._response.write(data[start : start + size])

    async def close(self) -> None:
        if self._packer is not None:
            await self._response.write(self._packer.flush())


def _pack(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()


def _due(after: int | None, position: int, last: bool) -> bool:
    """Whether something set for "after n chunks" is due now; one set past the end is due at the end."""
    return after is not None and (after == position or (last and after > position))


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _read(wire: Wire, incoming: Incoming, route: Route) -> Asked:
    try:
        asked = wire.read(incoming, route)
        if route == "chat":
            ChatBody.model_validate(asked.chat)
    except (AttributeError, KeyError, LookupError, TypeError, ValueError):
        # A value of another type where a wire looked for the one it knows.
        raise Refused(400, None, "Invalid value in the JSON body of the request") from None
    return asked


def _facts(call: Call, asked: Asked) -> CallFacts:
    texts = asked.texts
    last_role = ""
    tools: frozenset[str] = frozenset()
    if call.route in ("chat", "count"):
        messages = asked.chat["messages"]
        texts = tuple(content_text(message.get("content")) for message in messages)
        last_role = messages[-1]["role"]
        tools = frozenset(tool["function"]["name"] for tool in asked.chat.get("tools") or [])
    return CallFacts(
        route=call.route,
        model=call.model,
        texts=texts,
        last_text=texts[-1] if texts else "",
        last_role=last_role,
        tools=tools,
        stream=call.stream,
        bearer=call.bearer,
        wire=call.wire,
        fields=frozenset(call.body) if isinstance(call.body, dict) else frozenset(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an OpenAI-compatible LLM emulator on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port (printed)")
    parser.add_argument("--no-log", action="store_true", help="keep no log of calls")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(serve_until_cancelled(LlmEmulator(port=arguments.port, record=not arguments.no_log)))


if __name__ == "__main__":
    main()
