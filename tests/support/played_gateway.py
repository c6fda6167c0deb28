"""A tool gateway that is played: the internal RPCs over real gRPC, and tools that count what they do."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.protobuf.struct_pb2 import Struct

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1.tool_gateway_service_pb2_grpc import (
    ToolGatewayServiceServicer,
    add_ToolGatewayServiceServicer_to_server,
)

Json = Mapping[str, Any]


def result(text: str = "done", **fields: Any) -> pb.ToolOutcome:
    """What a tool returned."""
    return pb.ToolOutcome(result=pb.ToolCallResult(text=text, **fields))


def failure(
    reason: str = "TOOL_UNAVAILABLE", message: str = "no connection", *, temporary: bool = False, made: bool = False
) -> pb.ToolOutcome:
    """A call that was not made, unless `made`."""
    return pb.ToolOutcome(failure=pb.ToolFailure(reason=reason, message=message, temporary=temporary, made=made))


def unknown(message: str = "the connection ended before an answer came") -> pb.ToolOutcome:
    """A call that may have been made."""
    return pb.ToolOutcome(unknown=pb.ToolOutcomeUnknownReason(message=message))


@dataclass
class PlayedCall:
    """A call that the gateway was asked for."""

    request: pb.ExecuteToolCallRequest
    tell: Callable[[pb.ExecuteToolCallResponse], None]
    """Sends something to whoever follows the call."""
    answers: asyncio.Queue[pb.AnswerSourceQuestionRequest] = field(default_factory=asyncio.Queue)
    effects: int = 0
    """How often it has been done."""
    question: pb.SourceQuestion | None = None
    outcome: "asyncio.Task[pb.ToolOutcome] | None" = None
    followers: list[asyncio.Queue[pb.ExecuteToolCallResponse]] = field(default_factory=list)

    async def ask(
        self, text: str, schema: Json | None = None, url: str = "", key: str = ""
    ) -> pb.AnswerSourceQuestionRequest:
        """Ask a person and wait for the answer."""
        struct = Struct()
        struct.update(schema or {})
        number = 1 if self.question is None else self.question.number + 1
        self.question = pb.SourceQuestion(number=number, text=text, url=url, schema=struct if schema else None, key=key)
        self.tell(pb.ExecuteToolCallResponse(question=self.question))
        return await self.answers.get()


Tool = Callable[[PlayedCall], Awaitable[pb.ToolOutcome]]


class PlayedGateway(ToolGatewayServiceServicer):
    """Makes each call once by its id, and keeps results and unknown outcomes for ever. Failures are not kept."""

    def __init__(self) -> None:
        self.tools: dict[str, Tool] = {}
        self.calls: dict[str, PlayedCall] = {}
        self.requests: list[pb.ExecuteToolCallRequest] = []
        self.principals: set[str] = set()
        self.effects: Counter[str] = Counter()
        """How often each call was done, by its id."""
        self.breaks: Callable[[pb.ExecuteToolCallRequest], float | None] = lambda _request: None
        """After how many seconds a stream breaks off; None: not at all."""
        self._server = grpc.aio.server()
        self.address = ""

    async def __aenter__(self) -> Self:
        add_ToolGatewayServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    def did(self, call: PlayedCall) -> None:
        """Note that a tool has taken effect."""
        self.effects[call.request.call_id] += 1

    async def ExecuteToolCall(
        self, request: pb.ExecuteToolCallRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteToolCallResponse]:
        """See the proto."""
        self.requests.append(request)
        self.principals |= {str(value) for key, value in context.invocation_metadata() if key == "x-coxswain-principal"}
        call = self.calls.get(request.call_id)
        replayed = call is not None
        if call is None:
            call = self.calls[request.call_id] = PlayedCall(request, lambda told: self._tell(request.call_id, told))
        if call.outcome is None:
            call.outcome = asyncio.create_task(self.tools[request.tool](call))  # type: ignore[arg-type]
        follower: asyncio.Queue[pb.ExecuteToolCallResponse] = asyncio.Queue()
        call.followers.append(follower)
        if call.question is not None and not call.outcome.done():
            follower.put_nowait(pb.ExecuteToolCallResponse(question=call.question))
        end = self.breaks(request)
        try:
            async with asyncio.timeout(end):
                async for told in self._until_ended(call, follower):
                    yield told
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream broke off")
        finally:
            call.followers.remove(follower)
        outcome = pb.ToolOutcome(replayed=replayed)
        outcome.MergeFrom(call.outcome.result())
        if outcome.HasField("failure"):
            self.calls.pop(request.call_id, None)
        yield pb.ExecuteToolCallResponse(outcome=outcome)

    async def _until_ended(
        self, call: PlayedCall, follower: asyncio.Queue[pb.ExecuteToolCallResponse]
    ) -> AsyncIterator[pb.ExecuteToolCallResponse]:
        assert call.outcome is not None
        while not call.outcome.done() or not follower.empty():
            told = asyncio.create_task(follower.get())
            try:
                await asyncio.wait({told, call.outcome}, return_when=asyncio.FIRST_COMPLETED)
                if told.done():
                    yield told.result()
            finally:
                told.cancel()

    def _tell(self, call_id: str, told: pb.ExecuteToolCallResponse) -> None:
        for follower in self.calls[call_id].followers:
            follower.put_nowait(told)

    async def AnswerSourceQuestion(
        self, request: pb.AnswerSourceQuestionRequest, context: Any
    ) -> pb.AnswerSourceQuestionResponse:
        """See the proto."""
        call = self.calls.get(request.call_id)
        taken = call is not None and call.question is not None and call.question.number == request.number
        if call is not None and taken:
            call.question = None
            call.answers.put_nowait(request)
        return pb.AnswerSourceQuestionResponse(taken=taken)

    async def ListUnavailableTools(
        self, request: pb.ListUnavailableToolsRequest, context: Any
    ) -> pb.ListUnavailableToolsResponse:
        """Nothing is missing here."""
        return pb.ListUnavailableToolsResponse()

    async def ListSourceTools(self, request: pb.ListSourceToolsRequest, context: Any) -> pb.ListSourceToolsResponse:
        """See the proto."""
        return pb.ListSourceToolsResponse()

    async def CancelToolCall(self, request: pb.CancelToolCallRequest, context: Any) -> pb.CancelToolCallResponse:
        """See the proto."""
        call = self.calls.get(request.call_id)
        if call is None or call.outcome is None:
            return pb.CancelToolCallResponse(outcome=failure("TOOL_CANCELLED", "the call was cancelled"))
        call.outcome.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return pb.CancelToolCallResponse(outcome=await asyncio.shield(call.outcome))
        cancelled = unknown("the call was cancelled after it had been sent")
        call.outcome = asyncio.create_task(_at_once(cancelled))
        return pb.CancelToolCallResponse(outcome=cancelled)


async def _at_once(outcome: pb.ToolOutcome) -> pb.ToolOutcome:
    return outcome
