"""Makes planned calls, several at a time, and says which of them ended as none should."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from coxswain.auth.v1 import principal_pb2
from tests.fuzz.kept import Kept
from tests.fuzz.plans import METHODS, OF_A2A, Plan
from tests.fuzz.target import FuzzedSuite
from tests.fuzz.verdict import Outcome, fault_of
from tests.support.every_rpc import is_internal, listener_of, service_of

_MESSAGE_LIMIT = 4 * 1024 * 1024
# With what gRPC itself sends beside.
_METADATA_LIMIT = 60 * 1024
_PRINCIPAL_SECONDS = 120.0
_GRACE_SECONDS = 30.0
"""How much longer than a call may take is waited for it, to see how long it takes."""


@dataclass(frozen=True)
class Finding:
    """A call that ended as none should."""

    plan: Plan
    fault: str

    def __str__(self) -> str:
        return f"call {self.plan.number} {self.plan.method} ({self.plan.manner}): {self.fault}"


@dataclass
class Tally:
    """What came of calls so far."""

    calls: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    """By `Service.Method`."""
    slowest: float = 0.0
    findings: list[Finding] = field(default_factory=list)


class Caller:
    """Makes calls of an installation, as whoever a plan names."""

    def __init__(self, suite: FuzzedSuite, kept: Kept, longest_seconds: float) -> None:
        """Calls that take more than `longest_seconds` are findings."""
        self.tally = Tally()
        self._kept = kept
        kept.add("workspace_url", suite.workspace_url)
        self._suite = suite
        self._longest = longest_seconds
        options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
        internal, tools = suite.internal_addresses()
        self._public = grpc.aio.insecure_channel(suite.address("auth"), options=options)
        self._internal = grpc.aio.insecure_channel(internal, options=options)
        self._tools = grpc.aio.insecure_channel(tools, options=options)
        self._keys = suite.service_keys()
        self._principals: dict[str, tuple[float, str]] = {}
        self._lives = 1

    async def close(self) -> None:
        for channel in (self._public, self._internal, self._tools):
            await channel.close()

    async def all(self, plans: Iterable[Plan], at_once: int, after_each: Callable[[Tally], None] | None = None) -> None:
        """Make calls, `at_once` at a time."""
        # What the suite starts beside itself may take a moment longer.
        await self._tools.channel_ready()
        waiting = iter(plans)

        async def work() -> None:
            for plan in waiting:
                await self.one(plan)
                if after_each is not None:
                    after_each(self.tally)

        await asyncio.gather(*(work() for _ in range(at_once)))

    async def one(self, plan: Plan) -> Outcome:
        """Make a call and count what came of it."""
        life = self._lives
        outcome = await self._outcome(plan, await self._identity(plan))
        if outcome.code is grpc.StatusCode.UNAUTHENTICATED and not plan.odd_identity and life == self._lives:
            # One of the calls has revoked the access of who makes them: all that follow would reach nothing.
            self._lives += 1
            self._principals.clear()
        self.tally.calls += 1
        self.tally.codes[outcome.code.name] += 1
        self.tally.slowest = max(self.tally.slowest, outcome.seconds)
        if outcome.code is grpc.StatusCode.OK:
            self.tally.succeeded[plan.method] += 1
        if fault := fault_of(outcome, self._longest, of_a2a=plan.method in OF_A2A):
            self.tally.findings.append(Finding(plan, fault))
        return outcome

    async def still_serves(self) -> str:
        """Return what is wrong with a call that has nothing odd, "" for nothing."""
        plan = Plan(-1, "AuthService.WhoAmI", "plain", [b""], [], group="fuzz-still")
        return fault_of(await self._outcome(plan, await self._identity(plan)), self._longest)

    async def _identity(self, plan: Plan) -> list[tuple[str, str | bytes]]:
        if plan.odd_identity:
            return list(plan.metadata)
        if not plan.caller:
            return [*plan.metadata, ("authorization", self._bearer(plan.group)), ("x-group-id", plan.group)]
        audience = service_of(METHODS[plan.method])
        return [
            *plan.metadata,
            ("x-coxswain-service", self._keys[plan.caller].token_for(audience)),
            ("x-coxswain-principal", await self._principal(plan.group)),
        ]

    def _bearer(self, group: str) -> str:
        return f"Bearer dev:fuzz{self._lives}:{group}=admin,platform_admin"

    async def _principal(self, group: str) -> str:
        made, token = self._principals.get(group, (0.0, ""))
        if time.monotonic() - made > _PRINCIPAL_SECONDS:
            request = principal_pb2.ExchangeTokenRequest(authorization=self._bearer(group), group_id=group)
            call: Any = self._public.unary_unary(
                "/coxswain.auth.v1.AuthService/ExchangeToken",
                request_serializer=principal_pb2.ExchangeTokenRequest.SerializeToString,
                response_deserializer=principal_pb2.ExchangeTokenResponse.FromString,
            )
            # What calls have done to the group may keep it from getting one: then calls are made without.
            with contextlib.suppress(grpc.aio.AioRpcError):
                token = (await call(request, timeout=self._longest + _GRACE_SECONDS)).principal_token
            self._principals[group] = (time.monotonic(), token)
        return token

    async def _outcome(self, plan: Plan, metadata: Sequence[tuple[str, str | bytes]]) -> Outcome:
        method = METHODS[plan.method]
        outcome = Outcome(grpc.StatusCode.OK)
        sent = sum(len(key) + len(value) + 32 for key, value in metadata)
        outcome.refused_by_grpc = sent > _METADATA_LIMIT or any(len(data) > _MESSAGE_LIMIT for data in plan.requests)
        started, starved = time.monotonic(), self._suite.starved_seconds()
        call = self._open(plan, metadata)
        canceller = None
        if plan.cancel_after is not None:
            canceller = asyncio.get_running_loop().call_later(plan.cancel_after, call.cancel)
            outcome.given_up = True
        outcome.given_up |= plan.deadline is not None
        writer = asyncio.create_task(_write(plan, call)) if method.client_streaming else None
        try:
            if method.server_streaming:
                await self._read(plan, call, outcome)
            else:
                self._harvest(plan, await call)
        except grpc.aio.AioRpcError as error:
            outcome.code, outcome.message = error.code(), error.details() or ""
            outcome.trailers = [(str(key), value) for key, value in error.trailing_metadata() or ()]
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            outcome.code = grpc.StatusCode.CANCELLED
        finally:
            if canceller is not None:
                canceller.cancel()
            if writer is not None:
                writer.cancel()
        # What the machine has kept from the server is no hang of it.
        outcome.seconds = time.monotonic() - started - (self._suite.starved_seconds() - starved)
        return outcome

    def _open(self, plan: Plan, metadata: Sequence[tuple[str, str | bytes]]) -> Any:
        method = METHODS[plan.method]
        channel = self._public
        if is_internal(method):
            channel = self._tools if listener_of(method) == "tools" else self._internal
        path = f"/{method.containing_service.full_name}/{method.name}"
        timeout = plan.deadline or self._longest + _GRACE_SECONDS
        if method.client_streaming:
            return channel.stream_stream(path)(metadata=metadata, timeout=timeout)
        open_call: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
        return open_call(path)(plan.requests[0], metadata=metadata, timeout=timeout)

    async def _read(self, plan: Plan, call: Any, outcome: Outcome) -> None:
        async for answer in call:
            self._harvest(plan, answer)
            outcome.answers += 1
            if outcome.answers == plan.take:
                call.cancel()
                outcome.given_up = True
                return

    def _harvest(self, plan: Plan, answer: bytes) -> None:
        with contextlib.suppress(DecodeError):
            self._kept.harvest(GetMessageClass(METHODS[plan.method].output_type).FromString(answer))


async def _write(plan: Plan, call: Any) -> None:
    """Send the requests of a stream until it has ended."""
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        for data in plan.requests:
            await call.write(data)
            await asyncio.sleep(plan.request_pause)
        if plan.half_close:
            await call.done_writing()


def save(findings: Sequence[Finding], directory: Path) -> list[str]:
    """Write the calls of findings to files; return a line for each that says what it was and where it is."""
    lines = []
    for finding in findings:
        file = directory / f"{finding.plan.method}-{finding.plan.number}.json"
        finding.plan.save(file)
        lines.append(f"{finding}\n    again: make fuzz REPEAT={file}")
    return lines
