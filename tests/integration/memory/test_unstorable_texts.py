"""U+0000 in any text of any request, on both databases."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.integration.auth.support import refused
from tests.integration.memory.support import EmbeddingModels
from tests.support.descriptors import product_services
from tests.support.harness import Harness

NUL = "a\0b"
_DEEPEST = 3
"""Levels of messages within messages: deeper ones come again in themselves."""
_AT_ONCE = 50


def spoilt(descriptor: Descriptor, level: int = 0) -> Iterator[tuple[str, Message]]:
    """Yield messages with U+0000 in one text each, and the path of that."""
    message_class = GetMessageClass(descriptor)
    for field in descriptor.fields:
        inner = field.message_type
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (
                f"{field.name}[0]" if field.is_repeated else field.name,
                message_class(**{field.name: [NUL] if field.is_repeated else NUL}),
            )
        elif inner and inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                yield f"{field.name}.key", message_class(**{field.name: {"key": NUL}})
        elif inner and inner.full_name.startswith("coxswain.") and level < _DEEPEST:
            for path, value in spoilt(inner, level + 1):
                place = f"{field.name}[0]" if field.is_repeated else field.name
                yield f"{place}.{path}", message_class(**{field.name: [value] if field.is_repeated else value})


async def _call(channel: Any, method: MethodDescriptor, path: str, request: Message) -> None:
    name = f"/{method.containing_service.full_name}/{method.name}"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        if method.client_streaming:
            await _first(channel.stream_stream(name)([request.SerializeToString()]))
        elif method.server_streaming:
            await _first(channel.unary_stream(name)(request.SerializeToString()))
        else:
            await channel.unary_unary(name)(request.SerializeToString())
    assert refusal.fields == [path], name
    assert "U+0000" in refusal.message, json.dumps(refusal.message)


async def _first(call: Any) -> None:
    async for _ in call:
        return


async def test_no_text_of_any_request_may_have_it(served: tuple[Harness, EmbeddingModels]) -> None:
    harness, models = served
    calls: Sequence[tuple[MethodDescriptor, str, Message]] = [
        (method, path, request)
        for service in product_services()
        if service.full_name.startswith("coxswain.memory.v1.")
        for method in service.methods
        for path, request in spoilt(method.input_type)
    ]
    assert len({method.full_name for method, _, _ in calls}) > 30
    for start in range(0, len(calls), _AT_ONCE):
        await asyncio.gather(*(_call(harness.channel(), *call) for call in calls[start : start + _AT_ONCE]))
    assert not models.texts
