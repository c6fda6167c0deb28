"""Every method that streams ends when its caller is no longer who was admitted, in each way that can happen."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from services.common.clock import utc_now
from services.common.errors import CoxswainError, FailedPrecondition, PermissionDenied, Unauthenticated
from services.common.grpc.access import MethodAccess
from services.common.grpc.arrivals import Arrivals
from services.common.grpc.call import outgoing_call
from services.common.grpc.capacity import Capacity
from services.common.grpc.method import Method
from services.common.grpc.pipeline import Pipeline
from services.common.grpc.status import DETAILS_KEY
from services.common.identity.principal import CredentialKind, Principal, Role
from tests.support.served_methods import ServedMethod, served_methods

STREAMS: Mapping[str, ServedMethod] = {
    served.method.full_name: served for served in served_methods() if served.method.server_streaming
}
WAITING: Mapping[str, ServedMethod] = {
    served.method.full_name: served for served in served_methods() if served.access.waits
}
ANN = Principal(
    subject="ann",
    group_id="sales",
    role=Role.ADMIN,
    platform_admin=True,
    credential_kind=CredentialKind.USER,
    session_id="",
    execution_id="",
    expires_at=utc_now() + timedelta(hours=1),
    token="the principal of ann",
)
ROOM = Capacity.of(calls=9, group_calls=9, streams=9, group_streams=9, subject_streams=9)
REMOVED = PermissionDenied("you are not a member", reason="GROUP_NOT_MEMBER")
IN_TWO_GROUPS = FailedPrecondition("name one", reason="GROUP_REQUIRED")
ENDED = Unauthenticated("the token has expired", reason="CREDENTIAL_EXPIRED")


class Present:
    """Says who the caller is now, and remembers nothing."""

    def __init__(self) -> None:
        self.now: Principal | CoxswainError = ANN
        self.on_behalf = list[str]()
        """Of whose principals auth was asked."""
        self._asked = asyncio.Semaphore(0)

    def remembered_seconds(self, *_: object) -> float:
        return 0.0

    async def wait_for_change(self, _principal: Principal, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def caller(self, *_: object) -> Principal:
        self._asked.release()
        self.on_behalf.append(outgoing_call("auth")[1])
        if isinstance(self.now, CoxswainError):
            raise self.now
        return self.now

    async def looked_at(self, times: int) -> None:
        """Wait until the caller has been looked at some times more."""
        for _ in range(times):
            await self._asked.acquire()


class Aborted(Exception): ...


async def nothing_more() -> AsyncIterator[bytes]:
    yield b""


class Stream:
    """An open stream of a method, whose handler has sent one message and waits for the next."""

    def __init__(self, served: ServedMethod, present: Present) -> None:
        method = served.method
        self.handler_ended = asyncio.Event()
        self._more = asyncio.Event()
        self._response = GetMessageClass(method.output_type)
        self._told: list[Any] = []
        authenticator: Any = present
        pipeline = Pipeline(
            authenticator,
            internal=False,
            stream_check_seconds=0.001,
            max_message_bytes=1024,
            capacity=ROOM,
            arrivals=Arrivals(),
        )
        bound = Method("/m", "s", served.access, GetMessageClass(method.input_type), foreign=served.foreign)
        context: Any = SimpleNamespace(
            invocation_metadata=tuple, time_remaining=lambda: None, abort=self._abort, code=lambda: None, peer=str
        )
        # What a request holds is not the question here: it is not decoded.
        serve = pipeline._stream(bound, self._read, self._read, self._respond)
        self.responses: AsyncIterator[bytes] = serve(nothing_more(), context)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """Return code and reason with which the stream ends."""
        with pytest.raises(Aborted):
            await anext(self.responses)
        code, _, trailers = self._told
        status = status_pb2.Status.FromString(dict(trailers)[DETAILS_KEY])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return code, info.reason

    async def go_on(self) -> None:
        self._more.set()
        await anext(self.responses)

    async def _read(self, _: object) -> None: ...

    async def _respond(self, *_: object) -> AsyncIterator[Message]:
        try:
            yield self._response()
            await self._more.wait()
            yield self._response()
        finally:
            self.handler_ended.set()

    async def _abort(self, *status: Any) -> None:
        self._told.extend(status)
        raise Aborted


@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(replace(ANN, group_id="legal"), "PERMISSION_DENIED GROUP_NOT_MEMBER", id="moved to another group"),
        pytest.param(replace(ANN, subject="eve"), "PERMISSION_DENIED GROUP_NOT_MEMBER", id="somebody else"),
        pytest.param(replace(ANN, role=Role.EDITOR), "PERMISSION_DENIED ROLE_REQUIRED", id="lower role"),
        pytest.param(replace(ANN, platform_admin=False), "PERMISSION_DENIED ROLE_REQUIRED", id="no platform admin"),
        pytest.param(REMOVED, "PERMISSION_DENIED GROUP_NOT_MEMBER", id="removed"),
        pytest.param(IN_TWO_GROUPS, "FAILED_PRECONDITION GROUP_REQUIRED", id="has to choose a group"),
        pytest.param(ENDED, "UNAUTHENTICATED CREDENTIAL_EXPIRED", id="credential ended"),
    ],
)
async def test_a_stream_ends_with_what_admitted_its_caller(
    name: str, now: Principal | CoxswainError, expected: str
) -> None:
    present = Present()
    stream = Stream(STREAMS[name], present)
    await anext(stream.responses)
    present.now = now
    async with asyncio.timeout(60):
        code, reason = await stream.ended()
        assert f"{code.name} {reason}" == expected
        await stream.handler_ended.wait()


@pytest.mark.parametrize("name", sorted(WAITING))
async def test_a_call_that_waits_ends_with_what_admitted_its_caller(name: str) -> None:
    waiting, ended, present = asyncio.Event(), asyncio.Event(), Present()
    told: list[Any] = []
    authenticator: Any = present
    access = WAITING[name].access
    context: Any = SimpleNamespace(invocation_metadata=tuple, time_remaining=lambda: None, peer=str)

    async def abort(*status: Any) -> None:
        told.extend(status)
        raise Aborted

    async def handler(*_: object) -> Message:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    context.abort = abort
    pipeline = Pipeline(
        authenticator,
        internal=False,
        stream_check_seconds=0.001,
        max_message_bytes=1024,
        capacity=ROOM,
        arrivals=Arrivals(),
    )
    serve = pipeline.unary(Method("/m", "s", access, Empty), handler)
    serving = asyncio.ensure_future(serve(nothing_more(), context))
    async with asyncio.timeout(60):
        await waiting.wait()
        assert (ROOM.streams.held(), ROOM.calls.held()) == (1, 0)
        present.now = REMOVED
        with pytest.raises(Aborted):
            await serving
        await ended.wait()
    assert told[0] is grpc.StatusCode.PERMISSION_DENIED
    assert ROOM.streams.held() == 0


@pytest.mark.parametrize("now", [replace(ANN, session_id="another"), ANN])
async def test_a_stream_whose_caller_is_the_same_goes_on(now: Principal) -> None:
    present = Present()
    stream = Stream(next(iter(STREAMS.values())), present)
    await anext(stream.responses)
    present.now = now
    async with asyncio.timeout(60):
        await present.looked_at(3)
        await stream.go_on()


async def test_a_stream_whose_caller_may_do_more_now_goes_on() -> None:
    present = Present()
    present.now = replace(ANN, role=Role.EDITOR, platform_admin=False)
    method = next(served for served in STREAMS.values() if served.access.role <= Role.EDITOR)
    stream = Stream(method, present)
    await anext(stream.responses)
    present.now = ANN
    async with asyncio.timeout(60):
        await present.looked_at(3)
        await stream.go_on()


async def test_who_is_removed_while_a_request_comes_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.grpc.pipeline._SLOW_SECONDS", 0.0)
    present, told, handled = Present(), list[Any](), list[object]()
    authenticator: Any = present

    async def slowly() -> AsyncGenerator[bytes, None]:
        present.now = REMOVED
        await asyncio.sleep(0.001)
        yield b""

    async def abort(*status: Any) -> None:
        told.extend(status)
        raise Aborted

    async def handler(request: object, _context: object) -> Message:
        handled.append(request)
        return Empty()

    context: Any = SimpleNamespace(invocation_metadata=tuple, time_remaining=lambda: None, peer=str, abort=abort)
    pipeline = Pipeline(
        authenticator,
        internal=False,
        stream_check_seconds=0.001,
        max_message_bytes=1024,
        capacity=ROOM,
        arrivals=Arrivals(),
    )
    access = MethodAccess(internal=False, role=Role.OPERATOR, repeatable=True)
    with pytest.raises(Aborted):
        await pipeline.unary(Method("/m", "s", access, Empty), handler)(slowly(), context)
    assert told[0] is grpc.StatusCode.PERMISSION_DENIED
    assert not handled
    # The principal that let them in may be over when their request has come.
    assert present.on_behalf == ["", ""]
