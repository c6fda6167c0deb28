"""The tool gateway as one execution calls it: follows a call to its outcome, whatever is restarted meanwhile."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Protocol

import grpc

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from coxswain.orchestrator.v1 import tool_gateway_service_pb2_grpc
from services.common.backoff import Backoff
from services.common.errors import CoxswainError
from services.common.grpc.status import from_rpc_error
from services.orchestrator.worker.host.peer_retry import call_peer, is_absence
from services.orchestrator.worker.host.principals import ExecutionPrincipal

_SERVICE = "tools"
_BACKOFF = Backoff(0.2, 5.0)
_CANCEL_SECONDS = 5.0
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""What the gateway answers to a request that it has not taken."""


class CallListener(Protocol):
    """Who is told what happens to a call."""

    async def progress(self, progress: pb.ToolProgress) -> None:
        """Note that it goes on."""
        ...

    async def ask(self, question: pb.SourceQuestion) -> pb.AnswerSourceQuestionRequest | None:
        """Return a person's answer; None while there is none, so that nobody needs to follow the call."""
        ...


class LeftWaiting(Exception):
    """A call waits for a person's answer: it goes on at the gateway, and is followed again when there is one."""


class _BrokenOff(Exception):
    """The call may have been made, and nobody has said what has come of it."""


class ToolGateway:
    """The gateway."""

    def __init__(
        self,
        stub: "tool_gateway_service_pb2_grpc.ToolGatewayServiceAsyncStub",
        ready: Callable[[], Awaitable[Any]],
        principal: ExecutionPrincipal,
        *,
        retry_seconds: float,
    ) -> None:
        """`ready` returns once the gateway can be reached; an absent one is asked again for `retry_seconds`."""
        self._stub = stub
        self._ready = ready
        self._principal = principal
        self._retry_seconds = retry_seconds

    async def reachable(self) -> bool:
        """Return whether the gateway can be reached, waiting for it a while: nothing is begun before it can."""
        try:
            async with asyncio.timeout(self._retry_seconds):
                await self._ready()
        except TimeoutError:
            return False
        return True

    async def execute(self, request: pb.ExecuteToolCallRequest, listener: CallListener) -> pb.ToolOutcome:
        """Return the outcome of a call.

        Raises:
            LeftWaiting: a person has to answer first.
            CredentialExpired: the user's credential has expired.
            CoxswainError: the execution may not act; the gateway was not asked.
        """
        following = _Following(self._stub, request, listener)
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._principal.act(following.once)
            except CoxswainError as error:
                if not following.asked and not is_absence(error):
                    raise
                seen, refused = error.message, following.refused
            except _BrokenOff as error:
                seen, refused = str(error), False
            if refused and not request.begun_before:
                return _failed(following.refusal, seen)
            end = following.last_sign + self._retry_seconds
            pause = _BACKOFF.pause(following.failures)
            if refused or loop.time() + pause > end:
                if not following.asked and not request.begun_before:
                    return _failed("TOOL_UNAVAILABLE", seen, temporary=True)
                return pb.ToolOutcome(unknown=pb.ToolOutcomeUnknownReason(message=seen))
            # It may have been taken although nothing came back.
            request.begun_before = request.begun_before or following.asked
            await asyncio.sleep(pause)

    async def cancel(self, call_id: str) -> pb.ToolOutcome:
        """Take a call back, and return how it has ended; unknown if the gateway does not say so soon."""
        request = pb.CancelToolCallRequest(call_id=call_id)
        try:
            async with asyncio.timeout(_CANCEL_SECONDS):
                response = await call_peer(
                    self._principal, _SERVICE, self._stub.CancelToolCall, request, self._retry_seconds
                )
            if response.outcome.WhichOneof("outcome"):
                return response.outcome
            error: object = "its answer is empty"
        except TimeoutError:
            error = f"no answer in {_CANCEL_SECONDS:g} s"
        except Exception as failure:  # noqa: BLE001 - the outcome says it, and the execution ends in any case
            error = failure
        message = f"the call was cancelled, and the tool gateway did not say how it has ended: {error}"
        return pb.ToolOutcome(unknown=pb.ToolOutcomeUnknownReason(message=message))


class _Following:
    """One call, followed by one stream after the other."""

    def __init__(self, stub: Any, request: pb.ExecuteToolCallRequest, listener: CallListener) -> None:
        self._stub = stub
        self._request = request
        self._listener = listener
        self.asked = False
        """Whether a request may have reached the gateway."""
        self.failures = 0
        self.last_sign = asyncio.get_running_loop().time()
        self.refusal = ""
        """The reason for which the gateway did not take the last request."""

    @property
    def refused(self) -> bool:
        return bool(self.refusal)

    async def once(self) -> pb.ToolOutcome:
        self.failures += 1
        self.refusal = ""
        self.asked = True
        call = self._stub.ExecuteToolCall(self._request)
        try:
            return await self._outcome(call)
        except grpc.RpcError as error:
            failure = from_rpc_error(error, _SERVICE)
            if isinstance(error, grpc.aio.AioRpcError) and error.code() in _REFUSALS:
                self.refusal = failure.reason or "TOOL_UNAVAILABLE"
            raise failure from error
        finally:
            call.cancel()

    async def _outcome(self, call: AsyncIterable[pb.ExecuteToolCallResponse]) -> pb.ToolOutcome:
        async for response in call:
            self.failures = 0
            self.last_sign = asyncio.get_running_loop().time()
            match response.WhichOneof("event"):
                case "outcome" if response.outcome.WhichOneof("outcome"):
                    return response.outcome
                case "progress":
                    await self._listener.progress(response.progress)
                case "question":
                    await self._answer(response.question)
        raise _BrokenOff("the tool gateway ended the call without an outcome")

    async def _answer(self, question: pb.SourceQuestion) -> None:
        answer = await self._listener.ask(question)
        if answer is None:
            raise LeftWaiting
        await self._stub.AnswerSourceQuestion(answer)


def _failed(reason: str, message: str, *, temporary: bool = False) -> pb.ToolOutcome:
    return pb.ToolOutcome(failure=pb.ToolFailure(reason=reason, message=message, temporary=temporary))
