"""A channel that is opened anew when its credentials change, while calls go on."""

import time
from collections.abc import Callable
from typing import Any, Self

import grpc

from services.common.background import BackgroundTasks
from services.common.grpc.tls import ChannelTls

LOOK_SECONDS = 1.0
"""Files are looked at no more often than this."""
# As long as a server lets the calls of an old connection go on.
_GRACE_SECONDS = 3600.0


class RenewedChannel(grpc.aio.Channel):
    """Stands in for a channel: calls are made on the newest one, and those of the former one end in peace."""

    def __init__(
        self,
        tls: ChannelTls,
        open_channel: Callable[[grpc.ChannelCredentials], grpc.aio.Channel],
    ) -> None:
        """`open_channel` opens one with credentials."""
        self._tls = tls
        self._open = open_channel
        self._looked_at = time.monotonic()
        self._generation = tls.generation
        self._channel = open_channel(tls.credentials())
        self._calls: dict[tuple[str, str], Any] = {}
        self._closing = BackgroundTasks()

    def _current(self) -> grpc.aio.Channel:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            generation = self._tls.generation
            if generation != self._generation:
                self._generation = generation
                self._closing.start(self._channel.close(_GRACE_SECONDS))
                self._channel = self._open(self._tls.credentials())
                self._calls = {}
        return self._channel

    def _call(self, kind: str, method: str, **how: Any) -> Any:
        def start(*args: Any, **more: Any) -> Any:
            channel = self._current()
            call = self._calls.get((kind, method))
            if call is None:
                call = self._calls[kind, method] = getattr(channel, kind)(method, **how)
            return call(*args, **more)

        return start

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **more: Any
    ) -> Any:
        """Return what makes calls of a method; see `grpc.aio.Channel`."""
        return self._call(
            "unary_unary",
            method,
            request_serializer=request_serializer,
            response_deserializer=response_deserializer,
            **more,
        )

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **more: Any
    ) -> Any:
        """Return what makes calls of a method; see `grpc.aio.Channel`."""
        return self._call(
            "unary_stream",
            method,
            request_serializer=request_serializer,
            response_deserializer=response_deserializer,
            **more,
        )

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **more: Any
    ) -> Any:
        """Return what makes calls of a method; see `grpc.aio.Channel`."""
        return self._call(
            "stream_unary",
            method,
            request_serializer=request_serializer,
            response_deserializer=response_deserializer,
            **more,
        )

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **more: Any
    ) -> Any:
        """Return what makes calls of a method; see `grpc.aio.Channel`."""
        return self._call(
            "stream_stream",
            method,
            request_serializer=request_serializer,
            response_deserializer=response_deserializer,
            **more,
        )

    async def close(self, grace: float | None = None) -> None:
        """Close it, with calls that still go on over a former channel."""
        await self._closing.stop()
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the newest channel."""
        return self._current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the newest channel is in another state."""
        await self._current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the newest channel is connected."""
        await self._current().channel_ready()
