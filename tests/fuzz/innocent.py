"""A caller with nothing odd, on a connection of its own, who has to be served whatever others do."""

import asyncio
import contextlib
from typing import Any, Self

import grpc

from coxswain.auth.v1 import principal_pb2

_CALL_SECONDS = 60.0
_PAUSE_SECONDS = 0.01


class Innocent:
    """Calls again and again, as long as its block lasts."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self.calls = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        await self.call()
        self._task = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        # The last one after all is over.
        await self.call()
        await self._channel.close()

    async def _go_on(self) -> None:
        while True:
            await self.call()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def call(self) -> None:
        """Make a call; what came before it has been looked at when it is answered."""
        who_am_i: Any = self._channel.unary_unary(
            "/coxswain.auth.v1.AuthService/WhoAmI",
            request_serializer=principal_pb2.WhoAmIRequest.SerializeToString,
            response_deserializer=principal_pb2.WhoAmIResponse.FromString,
        )
        metadata = (("authorization", "Bearer dev:innocent:quiet=operator"),)
        try:
            await who_am_i(principal_pb2.WhoAmIRequest(), metadata=metadata, timeout=_CALL_SECONDS)
            self.calls += 1
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"{error.code().name}: {error.details()}")
