"""What happens to every call before and after its handler.

In order: request id and log context, deadline, whether the listener stops, a place among the open calls, identity,
access and role, reading (first where anybody may call) without such a place, a turn of the group (a stream's until its
first response), identity and role once more where that had to be waited for, decoding, refusal of crowds and of U+0000,
validation, handler, encoding; a failure anywhere becomes a `google.rpc.Status`. The steps are bound to a method once,
when it is registered: an interceptor would choose and wrap a handler for every call.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from services.common.background import BackgroundTasks
from services.common.errors import CoxswainError, Internal, ResourceExhausted
from services.common.group_lines import GroupLines
from services.common.group_turns import working_for
from services.common.grpc.admission import Admission
from services.common.grpc.arrivals import Arrivals
from services.common.grpc.call import Call, current_call, enter_call
from services.common.grpc.call_audit import record_call
from services.common.grpc.call_spans import begin_call_span, end_call_span
from services.common.grpc.caller_watch import CallerWatch
from services.common.grpc.capacity import Capacity
from services.common.grpc.decoding import decode, note_for_audit, requests_of_stream
from services.common.grpc.group_traffic import GroupTraffic
from services.common.grpc.handler import Context
from services.common.grpc.large_messages import beside_if_large
from services.common.grpc.method import Method
from services.common.grpc.metrics import OPEN, count_call, count_protocol_refusal, expect_calls
from services.common.grpc.request_reading import RequestReader
from services.common.grpc.status import failure_metadata, from_rpc_error, to_status
from services.common.identity.authenticator import GROUP, REQUEST_ID, Authenticator, refuse_ambiguous
from services.common.ids import new_id
from services.common.quotas import QuotaExceeded

T = TypeVar("T")
ReadT = TypeVar("ReadT")

logger = structlog.get_logger(__name__)

_MAX_REQUEST_ID = 128
# Who takes longer to send a request may have lost a right meanwhile.
_SLOW_SECONDS = 1.0
# A stream cannot be told why it ends while its client takes something else; one that takes nothing is not waited for.
_LAST_WRITE_SECONDS = 5.0
# Two keep the process busy while one of them waits for a database. More make the rounds of the event loop longer, of
# which gRPC needs several to take in the next call, whoever sent it.
_TURNS_OF_GROUP = 2
# Who has not ended by then waits for something outside, such as another service: two of those must not stop the rest.
_LONGEST_TURN_SECONDS = 0.25
# More than there are connections to a database; the first call of another group waits for as many.
_TURNS_ALONE = 8


@dataclass(slots=True)
class _Responses:
    """A stream of responses, which ends when its caller is no longer who was admitted."""

    task: "asyncio.Task[Any] | None"
    writing: bool = False
    """Whether gRPC has a response of it that the client has not taken yet."""
    refusal: CoxswainError | None = None
    """Why it has to end."""
    timer: asyncio.TimerHandle | None = None
    """Ends it though the client takes nothing."""

    def refuse(self, refusal: CoxswainError) -> None:
        """End it: when the client has taken what is written, or will not take it."""
        self.refusal = refusal
        if self.task is not None and self.writing:
            self.timer = asyncio.get_running_loop().call_later(_LAST_WRITE_SECONDS, self.task.cancel)
        elif self.task is not None:
            self.task.cancel()


class Pipeline:
    """Binds methods to identity and errors on one listener."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        internal: bool,
        stream_check_seconds: float,
        max_message_bytes: int,
        capacity: Capacity,
        arrivals: Arrivals,
        traffic: GroupTraffic | None = None,
        reader: RequestReader | None = None,
        idle_seconds: float = 60.0,
    ) -> None:
        """For `internal` and `stream_check_seconds` see `Admission`. Larger responses than `max_message_bytes` cannot
        be sent. A client that streams its requests and sends none for `idle_seconds` has given up. `traffic` is shared
        by the listeners of a process, `reader` by all that one listener serves.
        """
        self._max_message_bytes = max_message_bytes
        self._capacity = capacity
        self._arrivals = arrivals
        self._traffic = traffic or GroupTraffic()
        self._admission = Admission(
            authenticator, self._traffic, internal=internal, stream_check_seconds=stream_check_seconds
        )
        self._reader = reader or RequestReader()
        self._idle_seconds = idle_seconds
        self._lines = GroupLines(_TURNS_OF_GROUP, alone=_TURNS_ALONE)
        listener = "internal" if internal else "public"
        OPEN.labels(listener, "calls").set_function(capacity.calls.held)
        OPEN.labels(listener, "streams").set_function(capacity.streams.held)
        self._callers = CallerWatch(self._admission)
        self._closing = BackgroundTasks()

    def unary(
        self, method: Method, handler: Callable[[Any, Context], Awaitable[Message]]
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes | None]]:
        """Return the bound form of a unary method, which reads its request itself."""
        expect_calls(method)
        audited = method.access.audited

        async def serve(messages: AsyncIterator[bytes], context: Context) -> bytes | None:
            call = Call(request_id="", method=method.path, peer=context.peer())
            try:
                metadata = _enter(call, context)
                self._arrivals.let_in()
                data = await self._reader.read_of_stranger(messages) if method.access.open_to_strangers else None
                is_slow = False
                with self._capacity.calls.one_for():
                    await self._admission.admit(call, method, metadata)
                begin_call_span(call, metadata)
                with self._places_of(call, method), _work_of(call):
                    if data is None:
                        # Without a place of the listener: two groups that never end their requests would hold all.
                        began = time.monotonic()
                        data = await self._reader.read(messages, _bounded_group(call))
                        is_slow = time.monotonic() - began > _SLOW_SECONDS
                    async with self._turn_of(call, method) as has_waited:
                        if has_waited or is_slow:
                            await self._admit_again(call)
                        with self._capacity.calls.one_for():
                            request = await beside_if_large(len(data), decode, method, data)
                            call.request = request if audited else None
                            handling = handler(request, context)
                            # One that waits does so for hours, and keeps of its request what it needs.
                            del data, request
                            answer = None if method.access.waits else await handling
                        response = None if answer is None else self._encode(answer)
                    if answer is None:
                        answer = await self._while_admitted(call, handling)
                        response = self._encode(answer)
                    call.response = answer if audited else None
                call.outcome = "OK"
            except Exception as error:
                await self._fail(call, method, context, error)
                return None
            finally:
                _end(call, method)
            return response

        return serve

    def server_stream(
        self, method: Method, handler: Callable[[Any, Context], AsyncIterator[Message]]
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        """Return the bound form of a method that streams its responses, which reads its request itself."""

        async def read(messages: AsyncIterator[bytes]) -> bytes:
            if method.access.open_to_strangers:
                return await self._reader.read_of_stranger(messages)
            return await self._reader.read(messages, _bounded_group(current_call()))

        async def decoded(data: bytes) -> Message:
            request = await beside_if_large(len(data), decode, method, data)
            note_for_audit(method, request)
            return request

        return self._stream(method, read, decoded, handler)

    def both_streams(
        self, method: Method, handler: Callable[[AsyncIterator[Any], Context], AsyncIterator[Message]]
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        """Return the bound form of a method that streams its requests and its responses.

        Requests are read when the handler asks for them, so that a client sends no faster than they are worked on.
        """

        async def read(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            return messages

        async def decoded(messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
            return requests_of_stream(method, messages, self._idle_seconds)

        return self._stream(method, read, decoded, handler)

    def _stream(
        self,
        method: Method,
        read: Callable[[AsyncIterator[bytes]], Awaitable[ReadT]],
        decoded: Callable[[ReadT], Awaitable[T]],
        handler: Callable[[T, Context], AsyncIterator[Message]],
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        """Bind a method whose requests `read` takes in without a turn, and `decoded` works on with one."""
        expect_calls(method)

        async def serve(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            call = Call(request_id="", method=method.path, peer=context.peer())
            stream = _Responses(asyncio.current_task())
            places = contextlib.ExitStack()
            if stream.task is not None:
                stream.task.add_done_callback(lambda _: _end(call, method))
            try:
                metadata = _enter(call, context)
                self._arrivals.let_in()
                places.enter_context(self._capacity.streams.one_for())
                if stream.task is not None:
                    # Also where grpc drops the stream of a client that went away, see `_close`.
                    stream.task.add_done_callback(lambda _: places.close())
                await self._admission.admit(call, method, metadata)
                begin_call_span(call, metadata)
                places.enter_context(_work_of(call))
                if call.principal is not None and not call.service:
                    places.enter_context(self._capacity.stream_of(call.principal))
                    places.enter_context(self._traffic.stream_of(call.principal))
                read_request = await read(messages)
                async with self._turn_of(call, method):
                    self._note_stream(call)
                    await self._admit_again(call)
                    # Only now: those that end while they wait for their turn have nothing to be closed.
                    request = await decoded(read_request)
                    del read_request
                    if call.principal is not None and not call.service:
                        places.enter_context(self._callers.over(call, call.principal, stream.refuse))
                    responses = handler(request, context)
                    if stream.task is not None:
                        stream.task.add_done_callback(partial(self._close, responses))
                    data = await self._next_of(responses)
                # Without a turn: what comes next may have to wait for something, and so would others of the group.
                while data is not None:
                    self._note_stream(call)
                    stream.writing = True
                    yield data
                    stream.writing = False
                    if stream.refusal is not None:
                        raise stream.refusal
                    data = await self._next_of(responses)
                call.outcome = "OK"
            except Exception as error:
                await self._fail(call, method, context, error)
                return
            except asyncio.CancelledError:
                if stream.refusal is None:
                    raise
                await self._fail(call, method, context, stream.refusal)
                return
            finally:
                places.close()
                if stream.timer is not None:
                    stream.timer.cancel()
                count_call(call)

        return serve

    def _places_of(self, call: Call, method: Method) -> contextlib.AbstractContextManager[None]:
        """Count a call among those of its group, or (one that waits) among the streams."""
        if method.access.waits:
            return self._places_of_waiting(call)
        group_id = _bounded_group(call)
        return contextlib.nullcontext() if group_id is None else self._capacity.group_calls.one_for(group_id)

    @contextlib.contextmanager
    def _places_of_waiting(self, call: Call) -> Iterator[None]:
        with contextlib.ExitStack() as places:
            places.enter_context(self._capacity.streams.one_for())
            if call.principal is not None and not call.service:
                places.enter_context(self._capacity.stream_of(call.principal))
                places.enter_context(self._traffic.stream_of(call.principal))
            yield

    async def _admit_again(self, call: Call) -> None:
        """Refuse a caller who is no longer who was admitted: that may be minutes ago."""
        if call.principal is None or call.service:
            return
        admitted, call.principal = call.principal, None
        try:
            # On nobody's behalf: the principal itself may be over by now.
            present = await self._admission.readmit(call.credential, call.group_header, admitted)
        finally:
            call.principal = admitted
        call.principal = present or admitted

    def _turn_of(self, call: Call, method: Method) -> contextlib.AbstractAsyncContextManager[bool]:
        """Wait for a turn of the call's group; calls of other services, and of strangers, take none.

        The context says whether it had to wait.
        """
        group_id = _bounded_group(call)
        if group_id is None or method.access.waits:
            return contextlib.nullcontext(False)
        others_work = partial(self._capacity.group_calls.held_by_others, group_id)
        return self._lines.turn(group_id, _LONGEST_TURN_SECONDS, others_work, heavy=method.access.heavy)

    def _note_stream(self, call: Call) -> None:
        """Note that a stream begins or responds; one that waits for the next event is nobody's work."""
        if (group_id := _bounded_group(call)) is not None:
            self._lines.note_stream(group_id)

    async def _next_of(self, responses: AsyncIterator[Message]) -> bytes | None:
        """Return the next response of a stream; None at its end."""
        response = await anext(responses, None)
        return None if response is None else self._encode(response)

    async def _while_admitted(self, call: Call, handling: Awaitable[Message]) -> Message:
        """Return what a handler answers, unless its caller is no longer who was admitted before it does."""
        if call.principal is None or call.service:
            return await handling
        answer = asyncio.ensure_future(handling)
        refusal: asyncio.Future[CoxswainError] = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[Any]] = {answer, refusal}
        try:
            with self._callers.over(call, call.principal, refusal.set_result):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise refusal.result()
            return answer.result()
        finally:
            answer.cancel()

    def _encode(self, response: Message) -> bytes:
        """Return the bytes of a response.

        Raises:
            ResourceExhausted: there are more than a message may have; gRPC's own refusal would say neither why nor what
                to do.
        """
        data = response.SerializeToString()
        if len(data) > self._max_message_bytes:
            raise ResourceExhausted(
                f"the response has {len(data):,} bytes, and a message at most {self._max_message_bytes:,}; ask for "
                "less at once or use the method that streams, or have the operator raise COXSWAIN_MAX_MESSAGE_BYTES",
                reason="RESPONSE_TOO_LARGE",
                metadata={"bytes": str(len(data)), "limit": str(self._max_message_bytes)},
            )
        return data

    def _close(self, responses: AsyncIterator[Message], _task: "asyncio.Task[Any]") -> None:
        """End a handler whose client went away while something was sent to it.

        grpc drops it as it is, in a circle of objects: what the handler holds would be held until Python looks for
        those.
        """
        if isinstance(responses, AsyncGenerator) and getattr(responses, "ag_frame", None) is not None:
            self._closing.start(_aclose(responses))

    async def _fail(self, call: Call, method: Method, context: Context, error: Exception) -> None:
        """End the call with the status of an error; never returns."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, grpc.RpcError):
            failure = from_rpc_error(error, call.dependency)
            logger.warning("dependency_failed", method=call.method, code=failure.code, error=str(error))
        elif isinstance(error, CoxswainError):
            failure = error
        else:
            failure = _fault(call, error)
        try:
            code, status = to_status(failure, call.request_id, foreign=method.foreign)
        except Exception as untellable:
            failure = _fault(call, untellable)
            code, status = to_status(failure, call.request_id)
        if isinstance(failure, QuotaExceeded):
            failure.count()
        if failure.protocol is not None:
            count_protocol_refusal(call.method, failure.protocol.reason)
        call.outcome, call.reason = code.name, failure.reason
        logger.info("call_refused", method=call.method, code=code.name, reason=failure.reason)
        # Before the caller knows: what is not recorded has not been answered.
        _end(call, method)
        await context.abort(code, status.message, failure_metadata(failure, status))


def _enter(call: Call, context: Context) -> Mapping[str, str]:
    """Make `call` the current one, and return the metadata that came with it."""
    sent = [(key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)]
    metadata = dict(sent)
    call.request_id = metadata.get(REQUEST_ID, "")[:_MAX_REQUEST_ID] or new_id()
    call.group_header = metadata.get(GROUP, "")
    enter_call(call)
    refuse_ambiguous(key for key, _ in sent)
    remaining = context.time_remaining()
    if remaining is not None:
        call.deadline = asyncio.get_running_loop().time() + remaining
    return metadata


def _end(call: Call, method: Method) -> None:
    """Count and record a call that has ended, if that has not been done."""
    count_call(call)
    record_call(call, method.access)
    end_call_span(call)


def _bounded_group(call: Call) -> str | None:
    """Return whose bounds a call counts among; None for calls of other services, which have no bounds."""
    return None if call.principal is None or call.service else call.principal.group_id


def _work_of(call: Call) -> contextlib.AbstractContextManager[None]:
    """Say whom the call works for, so that groups take turns where places are few."""
    return working_for("" if call.principal is None else call.principal.group_id)


def _fault(call: Call, error: Exception) -> Internal:
    """Return what a caller is told of an error that nobody has foreseen; the log has all of it."""
    logger.error("call_failed", method=call.method, exc_info=error)
    return Internal(f"the server failed; its log tells why under request id {call.request_id}", reason="INTERNAL")


async def _aclose(responses: AsyncGenerator[Message, None]) -> None:
    await responses.aclose()
