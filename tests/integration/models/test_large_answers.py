"""Answers that no single message can carry."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import CHAT, EMBED, Installation, ask, ask_stream, refusal, serve_models, text
from tests.support.llm_script import Reply, ToolCall

LIMIT = 65_536
# Signs of four bytes: what counts are bytes, not characters.
LONG = "\U0001f6f6 long " * 20_000
WRITE = pb.ToolDefinition(name="write", description="Writes a text.", parameters_schema=to_struct({"type": "object"}))


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """Models whose messages are as small as can be set."""
    async with serve_models(tmp_path, monkeypatch, common={"max_message_bytes": LIMIT}) as installation:
        installation.llm.on(Reply(chunks=[LONG]), contains="long text")
        installation.llm.on(Reply(tool_calls=[ToolCall(name="write", arguments={"text": LONG})]), contains="long call")
        yield installation


def asked(make: Any, words: str, **fields: Any) -> Any:
    return make(CHAT, text(words), tools=[WRITE], **fields)


async def collect(call: Any) -> list[pb.StreamCompleteResponse]:
    pieces = [piece async for piece in call]
    assert max(piece.ByteSize() for piece in pieces) <= LIMIT
    assert pieces[-1].WhichOneof("delta") == "finish"
    return pieces


async def test_a_whole_answer_that_no_message_holds_is_a_clear_error_and_a_stream_brings_it(
    small: Installation,
) -> None:
    for words in ("long text", "long call"):
        failure = await refusal(small.inference().Complete(asked(ask, words)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE")
        assert failure.metadata["limit"] == str(LIMIT)
        assert int(failure.metadata["bytes"]) > LIMIT
        assert failure.retry_after is None
        assert "streams" in failure.message
    inference = small.inference()
    told = await collect(inference.StreamComplete(asked(ask_stream, "long text")))
    assert "".join(piece.text for piece in told) == LONG
    called = await collect(inference.StreamComplete(asked(ask_stream, "long call")))
    calls = [piece.tool_call for piece in called if piece.WhichOneof("delta") == "tool_call"]
    assert json.loads("".join(call.arguments_json for call in calls)) == {"text": LONG}
    assert (
        [bool(call.id) for call in calls] == [bool(call.name) for call in calls] == [True] + [False] * (len(calls) - 1)
    )


@pytest.mark.parametrize("words", ["long text", "long call"])
async def test_an_answer_that_was_paid_for_and_could_not_be_sent_comes_as_a_stream(
    small: Installation, words: str
) -> None:
    request = asked(ask, words)
    request.request_id = "once"
    assert (await refusal(small.inference().Complete(request))).reason == "RESPONSE_TOO_LARGE"
    again = pb.StreamCompleteRequest(completion=request.completion, request_id="once")
    pieces = await collect(small.inference().StreamComplete(again))
    arguments = "".join(piece.tool_call.arguments_json for piece in pieces)
    assert "".join(piece.text for piece in pieces) == LONG or json.loads(arguments) == {"text": LONG}
    assert pieces[-1].finish.stored
    assert len(small.llm.calls) == 1


async def test_more_vectors_than_a_message_holds_are_refused_before_they_are_paid_for(small: Installation) -> None:
    failure = await refusal(small.inference().Embed(pb.EmbedRequest(model=EMBED, texts=["text"] * 2000)))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["texts"])
    assert small.llm.calls == []
