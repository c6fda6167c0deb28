"""Between two bytes an upstream has its time again: whatever they are, keep-alives too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.openai import response_body
from services.models.providers.openai.client import OpenAIClient, Target
from services.models.providers.openai.response_body import ResponseLimits
from services.models.providers.upstreams import Attempt, CallId

_SECONDS = 1000.0
_STEP = 0.9 * _SECONDS
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_MODEL = Model("1", "", ModelSpec("a/b", Provider.OPENAI), enabled=True, created_at=_NOW, updated_at=_NOW)
_ANSWER = b'data: {"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]}\n\n'


class SteppedLoop(asyncio.SelectorEventLoop):
    """Its time goes on when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now


def read(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> list[Any]:
    """Read a response that sends a piece each `_STEP` seconds; an empty one is a step without a byte."""
    loop = SteppedLoop()

    async def body(_response: Any) -> AsyncIterator[bytes]:
        for piece in pieces:
            loop.now += _STEP
            for _ in range(3):
                await asyncio.sleep(0)
            if piece:
                yield piece

    class Response:
        content_type = "text/event-stream"

        def close(self) -> None:
            pass

    async def documents() -> list[Any]:
        anything: Any = None
        limits = ResponseLimits(1_000_000, _SECONDS, _SECONDS)
        attempt = Attempt(_MODEL, 1e9, 1e9, CallId())
        target = Target(attempt, "https://example.com", "https://example.com", trusted=True)
        response: Any = Response()
        reader = OpenAIClient(anything, anything, limits, anything)._batches(target, response)
        return [document async for batch in reader for document in batch]

    monkeypatch.setattr(response_body, "iter_body", body)
    try:
        reading: Awaitable[list[Any]] = documents()
        return loop.run_until_complete(reading)
    finally:
        loop.close()


@pytest.mark.parametrize("kept_alive", [b": wait\n\n", b"\n", b"data:\n\n"])
def test_keep_alives_count_as_bytes(monkeypatch: pytest.MonkeyPatch, kept_alive: bytes) -> None:
    found = read(monkeypatch, [*5 * [kept_alive], _ANSWER])
    assert [document["choices"][0]["delta"]["content"] for document in found] == ["hello"]


@pytest.mark.parametrize("pieces", [[b": wait\n\n", b"", _ANSWER], [b"", b"", _ANSWER]])
def test_silence_between_two_bytes_ends_a_stream(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> None:
    with pytest.raises((Unavailable, TimeoutError)):
        read(monkeypatch, pieces)
