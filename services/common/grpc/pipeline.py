"""What happens to every call before and after its handler.

In order: request id and log context, deadline, whether the listener stops, a place among the open
calls, identity, access and role, decoding,
refusal of crowds and of U+0000, validation, handler, encoding; a failure anywhere becomes a `google.rpc.Status`. The
steps are bound to a method once, when it is registered: an interceptor would choose and wrap a handler for every call.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from services.common.background import BackgroundTasks
from services.common.errors import (
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from services.common.grpc.access import MethodAccess
from services.common.grpc.arrivals import Arrivals
from services.common.grpc.call import Call, current_call, enter_call
from services.common.grpc.call_audit import record_call
from services.common.grpc.capacity import Capacity
from services.common.grpc.group_traffic import GroupTraffic
from services.common.grpc.handler import Context
from services.common.grpc.large_messages import beside_if_large
from services.common.grpc.metrics import CALLS, SECONDS
from services.common.grpc.nul_check import refuse_nul
from services.common.grpc.status import failure_metadata, from_rpc_error, to_status
from services.common.grpc.validation import refuse_crowds, validate
from services.common.identity.authenticator import (
    GROUP,
    PRINCIPAL,
    REQUEST_ID,
    SERVICE,
    Authenticator,
    inbound_credential,
    refuse_ambiguous,
)
from services.common.identity.principal import Principal, Role
from services.common.ids import new_id

logger = structlog.get_logger(__name__)

_MAX_REQUEST_ID = 128
# A stream cannot be told why it ends while its client takes something else; one that takes nothing is not waited for.
_LAST_WRITE_SECONDS = 5.0

Received = TypeVar("Received")


@dataclass(frozen=True, slots=True)
class Method:
    """A method as it is registered."""

    path: str
    """Example: `/coxswain.auth.v1.AuthService/WhoAmI`."""
    service: str
    """The service of ours it belongs to, which is the audience of service tokens. Example: `auth`."""
    access: MethodAccess
    request_type: type[Message]


@dataclass(slots=True)
class _Responses:
    """A stream of responses, for whom watches over its caller."""

    task: "asyncio.Task[Any] | None"
    writing: bool = False
    """Whether gRPC has a response of it that the client has not taken yet."""
    refusal: CoxswainError | None = None
    """Why it has to end."""


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
        idle_seconds: float = 60.0,
    ) -> None:
        """`internal` says which listener it is; callers of streams are verified again when nothing is remembered of
        them any more, or every `stream_check_seconds` where nothing is. Larger responses than `max_message_bytes`
        cannot be sent. A client that streams its requests and sends none for `idle_seconds` has given up. `traffic` is
        shared by the listeners of a process.
        """
        self._authenticator = authenticator
        self._internal = internal
        self._stream_check_seconds = stream_check_seconds
        self._max_message_bytes = max_message_bytes
        self._capacity = capacity
        self._arrivals = arrivals
        self._traffic = traffic or GroupTraffic()
        self._idle_seconds = idle_seconds
        self._closing = BackgroundTasks()

    def unary(
        self, method: Method, handler: Callable[[Any, Context], Awaitable[Message]]
    ) -> Callable[[bytes, Context], Awaitable[bytes | None]]:
        """Return the bound form of a unary method."""
        seconds = SECONDS.labels(method.path)
        succeeded = CALLS.labels(method.path, "OK")
        audited = method.access.audited

        async def serve(data: bytes, context: Context) -> bytes | None:
            started = time.perf_counter()
            call = Call(request_id="", method=method.path, peer=context.peer())
            try:
                metadata = _enter(call, context)
                self._arrivals.let_in()
                with self._capacity.calls.one_for():
                    await self._admit(call, method, metadata)
                    with self._group_place(call):
                        request = await beside_if_large(len(data), _decode, method, data)
                        call.request = request if audited else None
                        answer = await handler(request, context)
                        call.response = answer if audited else None
                        response = self._encode(answer)
                call.outcome = "OK"
            except Exception as error:
                await self._fail(call, method, context, error)
                return None
            finally:
                seconds.observe(time.perf_counter() - started)
                record_call(call, method.access)
            succeeded.inc()
            return response

        return serve

    def server_stream(
        self, method: Method, handler: Callable[[Any, Context], AsyncIterator[Message]]
    ) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        """Return the bound form of a method that streams its responses."""

        async def respond(data: bytes, context: Context) -> AsyncIterator[Message]:
            request = await beside_if_large(len(data), _decode, method, data)
            _note(method, request)
            return handler(request, context)

        return self._stream(method, respond)

    def both_streams(
        self, method: Method, handler: Callable[[AsyncIterator[Any], Context], AsyncIterator[Message]]
    ) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        """Return the bound form of a method that streams its requests and its responses.

        Requests are read when the handler asks for them, so that a client sends no faster than they are worked on.
        """

        async def respond(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
            return handler(_requests(method, messages, self._idle_seconds), context)

        return self._stream(method, respond)

    def _stream(
        self, method: Method, respond: Callable[[Received, Context], Awaitable[AsyncIterator[Message]]]
    ) -> Callable[[Received, Context], AsyncIterator[bytes]]:
        seconds = SECONDS.labels(method.path)
        succeeded = CALLS.labels(method.path, "OK")

        async def serve(received: Received, context: Context) -> AsyncIterator[bytes]:
            started = time.perf_counter()
            call = Call(request_id="", method=method.path, peer=context.peer())
            guard: asyncio.Task[None] | None = None
            stream = _Responses(asyncio.current_task())
            places = contextlib.ExitStack()
            if stream.task is not None:
                stream.task.add_done_callback(lambda _: record_call(call, method.access))
            try:
                metadata = _enter(call, context)
                self._arrivals.let_in()
                places.enter_context(self._capacity.streams.one_for())
                if stream.task is not None:
                    # Also where grpc drops the stream of a client that went away, see `_close`.
                    stream.task.add_done_callback(lambda _: places.close())
                await self._admit(call, method, metadata)
                if call.principal is not None and not call.service:
                    places.enter_context(self._capacity.stream_of(call.principal))
                    places.enter_context(self._traffic.stream_of(call.principal))
                    guard = asyncio.create_task(self._recheck(call, stream))
                responses = await respond(received, context)
                if stream.task is not None:
                    stream.task.add_done_callback(lambda _: self._closing.start(_close(responses, guard)))
                async for response in responses:
                    data = self._encode(response)
                    stream.writing = True
                    yield data
                    stream.writing = False
                    if stream.refusal is not None:
                        raise stream.refusal
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
                if guard is not None:
                    guard.cancel()
                seconds.observe(time.perf_counter() - started)
            succeeded.inc()

        return serve

    def _group_place(self, call: Call) -> contextlib.AbstractContextManager[None]:
        if call.principal is None or call.service:
            return contextlib.nullcontext()
        return self._capacity.group_calls.one_for(call.principal.group_id)

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

    async def _recheck(self, call: Call, stream: _Responses) -> None:
        """End a stream soon after its caller is no longer who was admitted."""
        admitted = call.principal
        while stream.task is not None and admitted is not None:
            # What is remembered of the caller may be old already: a fixed pace would add that age to the time they get.
            remembered = self._authenticator.remembered_seconds(call.credential, call.group_header)
            await self._authenticator.wait_for_change(
                call.principal or admitted, remembered or self._stream_check_seconds
            )
            try:
                principal = await self._authenticator.caller(call.credential, call.group_header)
                _require_admitted(principal, admitted)
            except (Unauthenticated, PermissionDenied, FailedPrecondition) as error:
                stream.refusal = error
                if stream.writing:
                    await asyncio.sleep(_LAST_WRITE_SECONDS)
                stream.task.cancel()
                return
            except CoxswainError:
                # Auth cannot be asked just now, which says nothing about the caller.
                continue
            call.principal = principal

    async def _admit(self, call: Call, method: Method, metadata: Mapping[str, str]) -> None:
        service_token, principal_token = metadata.get(SERVICE, ""), metadata.get(PRINCIPAL, "")
        if service_token or principal_token:
            await self._admit_service(call, method, service_token, principal_token)
        else:
            call.credential = inbound_credential(metadata)
            if method.access.internal:
                raise PermissionDenied(
                    f"{method.path} serves Coxswain services only", reason="SERVICE_IDENTITY_REQUIRED"
                )
            if method.access.role is not Role.ANONYMOUS:
                call.principal = await self._authenticator.caller(call.credential, call.group_header)
                # A limit must not keep those from their work who can change it.
                if not (call.principal.platform_admin and method.access.role is Role.PLATFORM_ADMIN):
                    self._traffic.count_call(call.principal)
        if method.access.role is not Role.ANONYMOUS:
            _require_role(call.principal, method.access.role)

    async def _admit_service(self, call: Call, method: Method, service_token: str, principal_token: str) -> None:
        if not self._internal:
            raise Unauthenticated(
                f"{SERVICE} and {PRINCIPAL} are not accepted here; send authorization", reason="PRINCIPAL_NOT_ACCEPTED"
            )
        if not service_token:
            raise Unauthenticated(f"{PRINCIPAL} counts only beside {SERVICE}", reason="SERVICE_IDENTITY_REQUIRED")
        call.service = self._authenticator.service(service_token, method.service)
        if method.access.internal and call.service not in method.access.callers:
            callers = ", ".join(sorted(method.access.callers))
            raise PermissionDenied(
                f"{method.path} does not serve {call.service}, only {callers}",
                reason="SERVICE_NOT_ALLOWED",
                metadata={"service": call.service, "callers": callers},
            )
        if principal_token:
            call.principal = await self._authenticator.forwarded(principal_token)

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
            code, status = to_status(failure, call.request_id)
        except Exception as untellable:
            failure = _fault(call, untellable)
            code, status = to_status(failure, call.request_id)
        call.outcome, call.reason = code.name, failure.reason
        CALLS.labels(call.method, code.name).inc()
        logger.info("call_refused", method=call.method, code=code.name, reason=failure.reason)
        # Before the caller knows: what is not recorded has not been answered.
        record_call(call, method.access)
        await context.abort(code, status.message, failure_metadata(failure, status))


def _enter(call: Call, context: Context) -> Mapping[str, str]:
    """Make `call` the current one, and return the metadata that came with it."""
    sent = [(key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)]
    metadata = dict(sent)
    call.request_id = metadata.get(REQUEST_ID, "")[:_MAX_REQUEST_ID] or new_id()
    call.group_header = metadata.get(GROUP, "")
    enter_call(call)
    structlog.contextvars.bind_contextvars(request_id=call.request_id)
    refuse_ambiguous(key for key, _ in sent)
    remaining = context.time_remaining()
    if remaining is not None:
        call.deadline = asyncio.get_running_loop().time() + remaining
    return metadata


def _fault(call: Call, error: Exception) -> Internal:
    """Return what a caller is told of an error that nobody has foreseen; the log has all of it."""
    logger.error("call_failed", method=call.method, exc_info=error)
    return Internal(f"the server failed; its log tells why under request id {call.request_id}", reason="INTERNAL")


async def _close(responses: AsyncIterator[Message], guard: asyncio.Task[None] | None) -> None:
    """End a handler whose client went away while something was sent to it, and do nothing to one that has ended.

    grpc drops it as it is, in a circle of objects: what the handler holds would be held until Python looks for those.
    """
    if guard is not None:
        guard.cancel()
    if isinstance(responses, AsyncGenerator):
        await responses.aclose()


def _require_admitted(principal: Principal, admitted: Principal) -> None:
    if (principal.subject, principal.group_id) != (admitted.subject, admitted.group_id):
        raise PermissionDenied(
            "the stream was opened in another group than the one you are in now; call again, and name the group with "
            "x-group-id",
            reason="GROUP_NOT_MEMBER",
            metadata={"group": admitted.group_id},
        )
    if admitted.platform_admin and not principal.platform_admin:
        _require_role(principal, Role.PLATFORM_ADMIN)
    # Also where the method asks for less: what the handler has shown or done may have been for the higher role.
    _require_role(principal, admitted.role)


def _require_role(principal: Principal | None, role: Role) -> None:
    if principal is None:
        raise Unauthenticated("this method needs to know on whose behalf it is called")
    if role is Role.PLATFORM_ADMIN:
        if not principal.platform_admin:
            raise PermissionDenied(
                "this method needs platform administration",
                reason="ROLE_REQUIRED",
                metadata={"required": role.name, "actual": principal.role.name},
            )
    elif principal.role < role:
        raise PermissionDenied(
            f"this method needs the role {role.name}; you are {principal.role.name} of this group: ask an admin of it",
            reason="ROLE_REQUIRED",
            metadata={"required": role.name, "actual": principal.role.name},
        )


async def _requests(method: Method, messages: AsyncIterator[bytes], idle_seconds: float) -> AsyncIterator[Message]:
    """Yield the requests of a stream, each decoded and checked as one alone would be.

    Raises:
        DeadlineExceeded: the client sends nothing any more and does not end the stream either.
    """
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                data = await anext(messages, None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"nothing has come for {idle_seconds:g} s; begin again after what the last response counts, and send "
                "without such pauses",
                reason="STREAM_IDLE",
                metadata={"seconds": f"{idle_seconds:g}"},
            ) from None
        if data is None:
            return
        request = await beside_if_large(len(data), _decode, method, data)
        _note(method, request)
        yield request


def _note(method: Method, request: Message) -> None:
    """Keep the first request of a stream for the audit log."""
    call = current_call()
    if method.access.audited and call.request is None:
        call.request = request


def _decode(method: Method, data: bytes) -> Message:
    request = method.request_type()
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        name = request.DESCRIPTOR.full_name
        raise InvalidArgument(
            f"the request is not a valid {name}; compare your generated client with this server's reflection",
            reason="MALFORMED_MESSAGE",
            metadata={"message": name},
        ) from error
    refuse_crowds(request, len(data))
    refuse_nul(request, data)
    validate(request)
    return request
