"""One call at a provider, from its first delivery to its outcome."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from coxswain.tools.v1 import tool_provider_pb2 as pb
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import PermissionDenied
from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError, shown
from services.orchestrator.tool_gateway.adapters.forms import AsksForSecret, BadQuestion
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import PeerUnreachable
from services.orchestrator.tool_gateway.adapters.grpc_peer.client import MAX_ERROR_BYTES, PeerClient
from services.orchestrator.tool_gateway.adapters.grpc_peer.statuses import REFUSALS, retry_after
from services.orchestrator.tool_gateway.adapters.grpc_provider.messages import (
    check_input,
    get_call_message,
    input_answer,
    source_question,
    tool_result,
)
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    CredentialExpired,
    NeverSeen,
    NotSent,
    OutcomeUnknown,
    SourceAnswer,
    ToolResult,
)

_MAX_ROUNDS = 16
_MAX_MESSAGES = 100_000
_QUICK_CALL_SECONDS = 10.0
_LOOK_UP = Backoff(0.25, 5.0)
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 1.0, 30.0
_NEVER_SEEN_ANSWERS = 2
"""A delivery that was cut may still arrive while the first question is answered."""

Code = grpc.StatusCode
# With these, asking GetCall again does not help.
_CANNOT_BE_ASKED = {*REFUSALS, Code.UNAUTHENTICATED, Code.OUT_OF_RANGE, Code.DATA_LOSS, Code.RESOURCE_EXHAUSTED}

# Why nothing can be asked; none of it says anything of a call that was sent before.
_NO_CONNECTION = (PeerUnreachable, PermissionDenied, CallRefused, NotSent)


class _Broken(Exception):
    """A delivery ended without an outcome; the text says what was seen."""


class _CredentialRefused(CallRefused):
    """The provider refused what the call was authenticated with."""


class ProviderCall:
    """Delivers a call, follows it, looks up what became of it, and asks what the provider asks."""

    def __init__(
        self,
        client: PeerClient,
        message: pb.CallToolRequest,
        progress: CallProgress,
        *,
        timeout: float,
        look_up_seconds: float,
    ) -> None:
        """`timeout` is the longest time of a delivery; `look_up_seconds` is how long a silent provider is asked."""
        self._client = client
        self._message = message
        self._progress = progress
        self._timeout = timeout
        self._look_up_seconds = look_up_seconds
        self._sent_at: datetime | None = None
        self._answers: tuple[bytes, dict[str, SourceAnswer]] = (b"", {})

    @property
    def goes_on(self) -> bool:
        """See `CallProgress`."""
        return self._progress.goes_on

    @property
    def sent(self) -> bool:
        """Whether the provider may know the call."""
        return self._sent_at is not None

    async def run(self) -> ToolResult:
        """Make the call and return its result.

        Raises:
            NotSent, OutcomeUnknown, CallRefused: see the ports.
        """
        return await self._follow(await self._deliver_or_look_up())

    async def resume(self, sent_at: datetime | None) -> ToolResult:
        """Return the result of a call that was delivered before, at a time if that is known.

        Raises:
            NotSent, OutcomeUnknown, CallRefused: see the ports.
        """
        self._sent_at = sent_at
        return await self._follow(await self._look_up("the connection to the call was lost"))

    async def cancel(self) -> None:
        """Tell the provider that nobody waits any more, as far as it can be told."""
        with contextlib.suppress(grpc.aio.AioRpcError, *_NO_CONNECTION):
            await self._ask("CancelCall", pb.CancelCallRequest(call_id=self._message.call_id))

    async def _follow(self, outcome: pb.CallResult | pb.InputRequired) -> ToolResult:
        for _ in range(_MAX_ROUNDS):
            if isinstance(outcome, pb.CallResult):
                return await beside_if_large(outcome.ByteSize(), tool_result, outcome, self._client.hide)
            await self._answer(outcome)
            outcome = await self._deliver_or_look_up()
        raise OutcomeUnknown(f"{self._client.name} asked more than {_MAX_ROUNDS} times in one call", final=True)

    async def _answer(self, required: pb.InputRequired) -> None:
        """Put the answers of a person into the message; what was answered before is not asked again."""
        try:
            check_input(required)
        except ForeignTextError as error:
            raise OutcomeUnknown(f"{self._client.name} asked what cannot be asked: {error}", final=True) from None
        if self._answers[0] != required.state:
            self._answers = (required.state, {})
        answers = self._answers[1]
        for question in required.questions:
            if question.id not in answers:
                answers[question.id] = await self._person(question)
        message = pb.CallToolRequest()
        message.CopyFrom(self._message)
        message.state = required.state
        for question in required.questions:
            message.answers[question.id].CopyFrom(input_answer(answers[question.id]))
        self._message = message

    async def _person(self, question: pb.InputQuestion) -> SourceAnswer:
        try:
            asked = source_question(question, self._client.hide)
        except (ForeignTextError, BadQuestion, AsksForSecret):
            # Nobody is asked; the provider learns that nobody has answered.
            return SourceAnswer("cancel")
        return await self._progress.ask(asked)

    async def _deliver_or_look_up(self) -> pb.CallResult | pb.InputRequired:
        try:
            try:
                return await self._deliver()
            except _CredentialRefused:
                if not await self._client.renews_credential():
                    raise
                return await self._deliver()
        except PeerUnreachable as error:
            raise NotSent(f"{self._client.name}: {error}") from None
        except PermissionDenied as error:
            raise CallRefused(error.message, reason=error.reason) from None
        except _Broken as broken:
            return await self._look_up(str(broken))

    async def _deliver(self) -> pb.CallResult | pb.InputRequired:
        """Deliver the call once and return what ends the stream."""
        async with self._client.connected() as connected:
            if self._sent_at is None:
                # Kept before anything leaves: after a crash it tells the provider which calls it has to know.
                sent_at = utc_now()
                await self._progress.handle(sent_at.isoformat())
                await self._progress.sent()
                self._sent_at = sent_at
            return await self._end(connected.stream("CallTool", self._message, timeout=self._timeout))

    async def _end(self, stream: Any) -> pb.CallResult | pb.InputRequired:
        accepted = False
        try:
            async for response in self._responses(stream):
                match response.WhichOneof("event"):
                    case "accepted":
                        accepted = True
                    case "progress":
                        accepted = True
                        await self._tell(response.progress)
                    case "result":
                        return response.result
                    case "input_required":
                        return response.input_required
                    case _:
                        raise _Broken("it sent an empty message")
        except grpc.aio.AioRpcError as error:
            if not accepted:
                self._raise_refusal(error)
            raise _Broken(f"the call ended with {error.code().name}: {self._client.text_of(error)}") from None
        finally:
            stream.cancel()
        raise _Broken("the call ended without a result")

    async def _responses(self, stream: Any) -> AsyncIterator[pb.CallToolResponse]:
        count = 0
        async for data in stream:
            count += 1
            if count > _MAX_MESSAGES:
                raise _Broken(f"it sent more than {_MAX_MESSAGES} messages without a result")
            try:
                yield await beside_if_large(len(data), pb.CallToolResponse.FromString, data)
            except DecodeError:
                raise _Broken("it sent what is not a CallToolResponse") from None

    async def _tell(self, progress: pb.Progress) -> None:
        fraction = progress.fraction if progress.HasField("fraction") and 0 <= progress.fraction <= 1 else None
        await self._progress.progress(shown(self._client.hide(progress.text), MAX_ERROR_BYTES), fraction)

    def _raise_refusal(self, error: grpc.aio.AioRpcError) -> None:
        """Raise what a status means that came instead of the call's acceptance; return if it means nothing certain."""
        code, text = error.code(), f"{self._client.name} refused the call: {self._client.text_of(error)}"
        if code is Code.RESOURCE_EXHAUSTED and (seconds := retry_after(error)) is not None:
            raise NotSent(text, reason="TOOL_RATE_LIMITED", retry_after=seconds) from None
        if code is Code.UNIMPLEMENTED:
            text = f"{self._client.name} does not implement coxswain.tools.v1.ToolProvider"
        if code is Code.UNAUTHENTICATED:
            raise _CredentialRefused(text, reason="UPSTREAM_CREDENTIAL_REJECTED") from None
        if code in REFUSALS:
            raise CallRefused(text, reason=REFUSALS[code]) from None

    async def _look_up(self, seen: str) -> pb.CallResult | pb.InputRequired:
        """Ask the provider what became of the call until it has an outcome; `seen` is what is known without it."""
        loop = asyncio.get_running_loop()
        seen = f"{self._client.name}: {seen}"
        question = get_call_message(self._message.call_id, self._sent_at)
        answered_at, attempt, never_seen = loop.time(), 0, 0
        while True:
            try:
                answer = pb.GetCallResponse.FromString(await self._ask("GetCall", question))
            except CredentialExpired:
                raise
            except (grpc.aio.AioRpcError, DecodeError, *_NO_CONNECTION) as error:
                self._raise_if_useless(error, seen)
                if loop.time() - answered_at > self._look_up_seconds:
                    raise OutcomeUnknown(f"{seen}; it cannot be asked what became of the call") from None
                attempt += 1
                await asyncio.sleep(_LOOK_UP.pause(attempt))
                continue
            answered_at, attempt = loop.time(), 0
            match answer.state:
                case pb.CALL_STATE_DONE if answer.HasField("result"):
                    return answer.result
                case pb.CALL_STATE_INPUT_REQUIRED if answer.HasField("input_required"):
                    return answer.input_required
                case pb.CALL_STATE_RUNNING:
                    await self._progress.progress("", None)
                    await asyncio.sleep(_poll_seconds(answer))
                case pb.CALL_STATE_NEVER_SEEN if not self._message.answers:
                    never_seen += 1
                    if never_seen == _NEVER_SEEN_ANSWERS:
                        raise NeverSeen(f"{seen}; it has never seen the call")
                    await asyncio.sleep(_LOOK_UP.pause(1))
                case _:
                    raise OutcomeUnknown(f"{seen}; it does not know any more what became of the call", final=True)

    def _raise_if_useless(self, error: Exception, seen: str) -> None:
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in _CANNOT_BE_ASKED:
            why = (
                "it does not implement GetCall, so it cannot say what became of the call"
                if error.code() is Code.UNIMPLEMENTED
                else f"it refuses to say what became of the call: {self._client.text_of(error)}"
            )
            raise OutcomeUnknown(f"{seen}; {why}", final=True) from None
        if isinstance(error, DecodeError):
            raise OutcomeUnknown(f"{seen}; its answer to GetCall cannot be read", final=True) from None
        if isinstance(error, PermissionDenied | CallRefused):
            raise OutcomeUnknown(f"{seen}; it cannot be asked what became of the call: {error}") from None

    async def _ask(self, method: str, message: pb.GetCallRequest | pb.CancelCallRequest) -> bytes:
        try:
            return await self._ask_once(method, message)
        except grpc.aio.AioRpcError as error:
            # A call may outlast what it was authenticated with.
            if error.code() is not Code.UNAUTHENTICATED or not await self._client.renews_credential():
                raise
        return await self._ask_once(method, message)

    async def _ask_once(self, method: str, message: pb.GetCallRequest | pb.CancelCallRequest) -> bytes:
        async with self._client.connected() as connected:
            return await connected.ask(method, message, timeout=_QUICK_CALL_SECONDS)


def _poll_seconds(answer: pb.GetCallResponse) -> float:
    if not answer.HasField("poll_interval"):
        return _POLL_SECONDS
    seconds = answer.poll_interval.seconds + answer.poll_interval.nanos / 1e9
    return min(max(seconds, _POLL_SECONDS / 10), _LONGEST_POLL_SECONDS)
