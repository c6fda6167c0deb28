"""Tries whether a server does what `coxswain.tools.v1.ToolProvider` asks of it, as the tool gateway calls it."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.tools.v1 import tool_provider_pb2 as pb
from coxswain.tools.v1.tool_provider_service_pb2_grpc import ToolProviderStub

_MAX_TOOLS = 512
_MAX_PAGES = 600
_MAX_NAME = 128
_POLL_SECONDS = 0.5
_REFUSALS = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class Verdict(Enum):
    """What a step has found."""

    CONFORMS = "conforms"
    ALLOWED = "allowed"
    """It conforms, and people will be asked where a provider that does more would answer."""
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step and what it has found."""

    step: str
    verdict: Verdict
    text: str


class _Fault(Exception):
    """What does not conform."""


@dataclass(slots=True)
class _Delivery:
    """What one delivery of a call brought."""

    accepted: pb.Accepted | None = None
    progress: int = 0
    result: pb.CallResult | None = None
    asks: bool = False
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""


class ProviderCheck:
    """Checks one provider. A tool that is named is really called, several times and under several call ids."""

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        metadata: Sequence[tuple[str, str]] = (),
        tool: str = "",
        arguments: str = "{}",
        timeout: float = 30.0,
    ) -> None:
        """`arguments` is a JSON object for the tool; `timeout` is the longest time of a call, in seconds."""
        self._stub = ToolProviderStub(channel)
        self._metadata = tuple(metadata)
        self._tool = tool
        self._arguments = arguments
        self._timeout = timeout
        self._keeps_calls = False

    def findings(self) -> Iterator[Finding]:
        """Yield what each step finds, in order; after a provider that cannot be reached nothing more is tried."""
        for step, check in (
            ("list the tools", self._list),
            ("refuse an unknown tool", self._unknown_tool),
            ("ask for an unknown call", self._unknown_call),
            ("cancel an unknown call", self._cancel_unknown),
        ):
            finding = self._finding(step, check)
            yield finding
            if step == "list the tools" and finding.verdict is Verdict.FAULT:
                return
        if not self._tool:
            yield Finding(
                "call a tool", Verdict.SKIPPED, "name one with --tool, and its --arguments, to have it called"
            )
            return
        for step, check in (
            ("refuse arguments that are no object", self._bad_arguments),
            ("call a tool", self._call),
            ("repeat a call", self._repeat),
            ("cut a call", self._cut),
            ("cancel a call", self._cancel),
        ):
            yield self._finding(step, check)

    def _finding(self, step: str, check: Callable[[], tuple[Verdict, str]]) -> Finding:
        try:
            return Finding(step, *check())
        except _Fault as fault:
            return Finding(step, Verdict.FAULT, str(fault))
        except grpc.RpcError as error:
            return Finding(step, Verdict.FAULT, f"it answered {error.code().name}: {error.details()}")

    def _list(self) -> tuple[Verdict, str]:
        names = [tool.name for tool in self._pages(page_size=100)]
        if [tool.name for tool in self._pages(page_size=1)] != names:
            raise _Fault("pages of another size hold other tools, or another order")
        if self._tool and self._tool not in names:
            raise _Fault(f"it does not list {self._tool}, only {', '.join(names[:10])}")
        return Verdict.CONFORMS, f"{len(names)} tools: {', '.join(names[:10])}"

    def _pages(self, page_size: int) -> list[pb.ProvidedTool]:
        tools: dict[str, pb.ProvidedTool] = {}
        token, tokens = "", {""}
        for _ in range(_MAX_PAGES):
            page = self._stub.ListTools(
                pb.ListToolsRequest(page_size=page_size, page_token=token),
                metadata=self._metadata,
                timeout=self._timeout,
            )
            for tool in page.tools:
                _check_tool(tool)
                if tool.name in tools:
                    raise _Fault(f"it lists {tool.name} twice")
                tools[tool.name] = tool
            token = page.next_page_token
            if len(tools) > _MAX_TOOLS:
                raise _Fault(f"it lists more than {_MAX_TOOLS} tools")
            if not token:
                return list(tools.values())
            if token in tokens:
                raise _Fault("a page leads back to one that was read before")
            tokens.add(token)
        raise _Fault(f"its list has more than {_MAX_PAGES} pages")

    def _unknown_tool(self) -> tuple[Verdict, str]:
        delivery = self._deliver(_call_id(), tool=f"no-such-tool-{uuid.uuid4().hex[:8]}")
        if delivery.code is not grpc.StatusCode.NOT_FOUND or delivery.accepted is not None:
            raise _Fault(f"an unknown tool has to be refused with NOT_FOUND instead of Accepted; it {_what(delivery)}")
        return Verdict.CONFORMS, "NOT_FOUND"

    def _bad_arguments(self) -> tuple[Verdict, str]:
        delivery = self._deliver(_call_id(), arguments="[]")
        if delivery.result is not None and delivery.result.is_error:
            return Verdict.CONFORMS, "it returned an error to the model"
        if delivery.code not in _REFUSALS or delivery.accepted is not None:
            raise _Fault(f'the arguments "[]" have to be refused with INVALID_ARGUMENT; it {_what(delivery)}')
        return Verdict.CONFORMS, delivery.code.name

    def _unknown_call(self) -> tuple[Verdict, str]:
        answer = self._get_call(_call_id())
        if answer is None:
            return Verdict.ALLOWED, "GetCall is not implemented: people are asked what became of calls that were cut"
        self._keeps_calls = True
        if answer.state == pb.CALL_STATE_NEVER_SEEN:
            return Verdict.CONFORMS, "NEVER_SEEN"
        if answer.state == pb.CALL_STATE_FORGOTTEN:
            return Verdict.ALLOWED, "FORGOTTEN: people are asked about calls that may have been lost"
        raise _Fault(f"a call that was never made is {_state(answer.state)}")

    def _cancel_unknown(self) -> tuple[Verdict, str]:
        state = self._cancel_call(_call_id())
        if state is None:
            return Verdict.ALLOWED, "CancelCall is not implemented: calls that nobody waits for go on"
        if state in {pb.CALL_STATE_RUNNING, pb.CALL_STATE_DONE}:
            raise _Fault(f"a call that was never made is {_state(state)}")
        return Verdict.CONFORMS, _state(state)

    def _call(self) -> tuple[Verdict, str]:
        delivery = self._deliver(_call_id())
        _check_end(delivery)
        if delivery.asks:
            return Verdict.CONFORMS, "it asks a person, who answers in an execution only"
        assert delivery.result is not None
        text = delivery.result.structured_json or delivery.result.text
        kind = "an error" if delivery.result.is_error else "a result"
        return Verdict.CONFORMS, f"{kind} after {delivery.progress} signs of progress: {text[:200]}"

    def _repeat(self) -> tuple[Verdict, str]:
        call_id = _call_id()
        first, second = self._deliver(call_id), self._deliver(call_id)
        _check_end(first)
        if not self._keeps_calls:
            return Verdict.ALLOWED, "without GetCall nothing says that a call that arrives twice is made once"
        _check_end(second)
        assert second.accepted is not None
        if not second.accepted.repeated:
            raise _Fault("a call that arrives twice has to be accepted with `repeated`: it may have been made twice")
        self._check_same(first, second)
        answer = self._get_call(call_id)
        expected = pb.CALL_STATE_INPUT_REQUIRED if first.asks else pb.CALL_STATE_DONE
        if answer is None or answer.state != expected or (first.result or pb.CallResult()) != answer.result:
            raise _Fault("GetCall does not return what the call returned")
        return Verdict.CONFORMS, "the second delivery and GetCall return what the first one returned"

    def _cut(self) -> tuple[Verdict, str]:
        call_id = _call_id()
        stream = self._stream(call_id)
        next(iter(stream))
        stream.cancel()
        if not self._keeps_calls:
            return Verdict.ALLOWED, "without GetCall a person is asked what became of the call"
        answer = self._settled(call_id)
        if answer.state == pb.CALL_STATE_NEVER_SEEN:
            raise _Fault("a call that was accepted, and then cut, is NEVER_SEEN: it would be made twice")
        again = self._deliver(call_id)
        if answer.state == pb.CALL_STATE_DONE and (again.result or pb.CallResult()) != answer.result:
            raise _Fault("a delivery after the cut does not return what GetCall returned")
        return Verdict.CONFORMS, f"after the cut the call is {_state(answer.state)}"

    def _cancel(self) -> tuple[Verdict, str]:
        call_id = _call_id()
        stream = self._stream(call_id)
        next(iter(stream))
        state = self._cancel_call(call_id)
        stream.cancel()
        if state is None:
            return Verdict.ALLOWED, "CancelCall is not implemented"
        if state == pb.CALL_STATE_NEVER_SEEN:
            raise _Fault("a call that was accepted is NEVER_SEEN")
        if self._keeps_calls and self._settled(call_id).state == pb.CALL_STATE_NEVER_SEEN:
            raise _Fault("a call that was cancelled is NEVER_SEEN: it would be made again")
        return Verdict.CONFORMS, _state(state)

    def _check_same(self, first: _Delivery, second: _Delivery) -> None:
        if first.asks != second.asks or first.result != second.result:
            raise _Fault("a call that arrives twice has to be answered as it was first")

    def _settled(self, call_id: str) -> pb.GetCallResponse:
        """Ask until the call does not run any more."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            answer = self._get_call(call_id)
            if answer is None:
                raise _Fault("GetCall is implemented for some calls only")
            if answer.state != pb.CALL_STATE_RUNNING:
                return answer
            time.sleep(_POLL_SECONDS)
        raise _Fault(f"the call runs for more than {self._timeout:g} s; give it more with --timeout")

    def _get_call(self, call_id: str) -> pb.GetCallResponse | None:
        sent = Timestamp()
        sent.GetCurrentTime()
        try:
            return self._stub.GetCall(
                pb.GetCallRequest(call_id=call_id, sent_time=sent), metadata=self._metadata, timeout=self._timeout
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise

    def _cancel_call(self, call_id: str) -> "pb.CallState.ValueType | None":
        try:
            request = pb.CancelCallRequest(call_id=call_id)
            return self._stub.CancelCall(request, metadata=self._metadata, timeout=self._timeout).state
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise

    def _stream(self, call_id: str, *, tool: str = "", arguments: str = "") -> Any:
        request = pb.CallToolRequest(
            call_id=call_id, tool=tool or self._tool, arguments_json=arguments or self._arguments
        )
        return self._stub.CallTool(request, metadata=self._metadata, timeout=self._timeout)

    def _deliver(self, call_id: str, *, tool: str = "", arguments: str = "") -> _Delivery:
        delivery = _Delivery()
        ended = False
        try:
            for response in self._stream(call_id, tool=tool, arguments=arguments):
                kind = response.WhichOneof("event")
                if ended:
                    raise _Fault(f"it sent {kind} after the end of the call")
                if kind != "accepted" and delivery.accepted is None:
                    raise _Fault(f"it sent {kind} before Accepted")
                match kind:
                    case "accepted":
                        if delivery.accepted is not None:
                            raise _Fault("it sent Accepted twice")
                        delivery.accepted = response.accepted
                    case "progress":
                        delivery.progress += 1
                    case "result":
                        delivery.result, ended = response.result, True
                        _check_result(response.result)
                    case "input_required":
                        delivery.asks = ended = True
                    case _:
                        raise _Fault("it sent a message without an event")
        except grpc.RpcError as error:
            delivery.code, delivery.details = error.code(), error.details() or ""
        return delivery


def _check_tool(tool: pb.ProvidedTool) -> None:
    name = tool.name
    if not 0 < len(name) <= _MAX_NAME or "/" in name or not all("!" <= character <= "~" for character in name):
        raise _Fault(f"the name of a tool has 1 to {_MAX_NAME} visible ASCII characters and no slash: {name!r}")
    if not tool.description:
        raise _Fault(f"{name} has no description, by which models choose their tools")
    for field in ("input_schema_json", "output_schema_json"):
        text = getattr(tool, field)
        if text and not isinstance(_json(text, f"{field} of {name}"), dict):
            raise _Fault(f"{field} of {name} is not a JSON object")


def _check_result(result: pb.CallResult) -> None:
    if result.structured_json:
        _json(result.structured_json, "structured_json")
    for file in result.files:
        if not file.name or "/" in file.name or "\\" in file.name:
            raise _Fault(f"the name of a file has no directory: {file.name!r}")


def _json(text: str, what: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _Fault(f"{what} is not valid JSON") from None


def _check_end(delivery: _Delivery) -> None:
    if delivery.accepted is None or not (delivery.result is not None or delivery.asks):
        raise _Fault(f"a call is Accepted, and ends with a result or a question; it {_what(delivery)}")
    if delivery.code is not grpc.StatusCode.OK:
        raise _Fault(f"a call that has a result ends with OK; it {_what(delivery)}")


def _what(delivery: _Delivery) -> str:
    parts = [
        *(["accepted the call"] if delivery.accepted is not None else []),
        *(["returned a result"] if delivery.result is not None else []),
        f"ended with {delivery.code.name}",
    ]
    text = " and ".join(parts)
    return f"{text}: {delivery.details}" if delivery.details else text


def _state(state: "pb.CallState.ValueType") -> str:
    try:
        return pb.CallState.Name(state).removeprefix("CALL_STATE_")
    except ValueError:
        return str(state)


def _call_id() -> str:
    return f"check-{uuid.uuid4().hex}"
