"""The methods of an agent, over connections to checked addresses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from a2a.types import a2a_pb2 as pb
from google.protobuf.message import DecodeError, Message

from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError
from services.orchestrator.tool_gateway.adapters.grpc_peer.client import PeerClient

QUICK_CALL_SECONDS = 20.0
"""Of a method that does no work."""

Answer = TypeVar("Answer", bound=Message)


class UnreadableAnswer(ForeignTextError):
    """An agent sent what is not the message that its method returns."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A call of a method as an agent takes it."""

    method: str
    request: Message
    answer: type[Message]
    read: Callable[[Any], Message] | None = None
    """Returns the answer of 1.0 for the agent's; None where that is one."""

    def parsed(self, data: bytes) -> Message:
        """Return the answer of 1.0. Raises DecodeError, and whatever `read` raises."""
        answer = self.answer.FromString(data)
        return answer if self.read is None else self.read(answer)


class Dialect:
    """How an agent speaks A2A: that of 1.0."""

    version = ""
    """Empty means 1.0."""
    service = "lf.a2a.v1.A2AService"

    def metadata(self, tenant: str) -> dict[str, str]:  # noqa: ARG002 - messages of 1.0 name the tenant
        """Return what each call says beside its message."""
        return {"a2a-version": "1.0"}

    def spoken(self, method: str, request: Message, answer: type[Message]) -> Spoken:
        """Return how a method of 1.0 is called. Raises UnreadableAnswer: the agent has no such method."""
        return Spoken(method, request, answer)


class AgentClient:
    """Calls an agent. Each call may raise what `PeerClient.connected` raises, and grpc.aio.AioRpcError."""

    def __init__(self, peer: PeerClient, tenant: str, dialect: Dialect) -> None:
        self.peer = peer
        self.tenant = tenant
        self._dialect = dialect

    @property
    def version(self) -> str:
        """Of A2A that the agent speaks; empty means 1.0."""
        return self._dialect.version

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.peer.name

    async def ask(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        timeout: float,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """Return an answer. `before` is awaited once there is a connection, before anything leaves.

        Raises:
            UnreadableAnswer: the answer cannot be read.
        """
        spoken = self._dialect.spoken(method, request, answer)
        try:
            data = await self._ask(spoken, timeout, before)
        except grpc.aio.AioRpcError as error:
            # Nothing was done with it: a token may have been withdrawn before its time.
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED or not await self.peer.renews_credential():
                raise
            data = await self._ask(spoken, timeout, None)
        return await _parsed(data, spoken, answer, f"its answer to {method} cannot be read")

    async def send(
        self,
        message: pb.Message,
        *,
        timeout: float,
        skill: str = "",
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> pb.SendMessageResponse:
        """Send a message for the skill with an id, and return what has come of it by then; see `ask`."""
        # The task is followed on its own: a call that waits for its end could be cut before its id is known.
        configuration = pb.SendMessageConfiguration(return_immediately=True, history_length=0)
        request = pb.SendMessageRequest(tenant=self.tenant, message=message, configuration=configuration)
        if skill:
            request.metadata.update({"skill": skill})
        return await self.ask("SendMessage", request, pb.SendMessageResponse, timeout=timeout, before=before)

    async def _ask(self, spoken: Spoken, timeout: float, before: Callable[[], Awaitable[None]] | None) -> bytes:
        async with self.peer.connected() as connected:
            if before is not None:
                await before()
            return await connected.ask(spoken.method, spoken.request, timeout=timeout)

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, request: Message, answer: type[Answer], *, timeout: float
    ) -> AsyncIterator["AgentStream[Answer]"]:
        """Open a stream, which is closed with the block."""
        spoken = self._dialect.spoken(method, request, answer)
        async with self.peer.connected() as connected:
            reading = AgentStream(connected.stream(spoken.method, spoken.request, timeout=timeout), spoken, answer)
            try:
                yield reading
            finally:
                await reading.close()


async def _parsed(data: bytes, spoken: Spoken, answer: type[Answer], fault: str) -> Answer:
    try:
        parsed = await beside_if_large(len(data), spoken.parsed, data)
    except DecodeError:
        raise UnreadableAnswer(fault) from None
    assert isinstance(parsed, answer)
    return parsed


class AgentStream(Generic[Answer]):
    """The messages of a stream, read with a limit of time that does not end the stream."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Message, bytes], spoken: Spoken, answer: type[Answer]) -> None:
        self._call = call
        self._spoken = spoken
        self._answer = answer
        self._reading: asyncio.Task[bytes | None] | None = None

    async def read(self, *, within: float) -> Answer | None:
        """Return the next message; None at the end of the stream.

        Raises:
            TimeoutError: there is none within so many seconds; reading goes on.
            UnreadableAnswer: it cannot be read.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._next())
        done, _ = await asyncio.wait({self._reading}, timeout=within)
        if not done:
            raise TimeoutError
        reading, self._reading = self._reading, None
        data = reading.result()
        if data is None:
            return None
        return await _parsed(data, self._spoken, self._answer, "it sent an event that cannot be read")

    async def close(self) -> None:
        """End the stream."""
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _next(self) -> bytes | None:
        data = await self._call.read()
        return data if isinstance(data, bytes) else None
