"""Answers that could hurt, and errors that could mislead: over gRPC, whole and streamed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from services.models.providers.openai import response_body
from tests.integration.models.read_limits import ReadLimits
from tests.integration.models.support import (
    CHAT,
    EMBED,
    KEY,
    Installation,
    Refusal,
    ask,
    ask_stream,
    refusal,
    serve_models,
)
from tests.support.harness import BOB
from tests.support.llm_script import Fault, Reply

HUGE = 10**20
LARGEST = 10**9
"""Tokens that are still believed."""


async def _read(models: Installation) -> list[pb.StreamCompleteResponse]:
    return [piece async for piece in models.inference().StreamComplete(ask_stream(CHAT))]


async def _fails(models: Installation, stream: bool) -> Refusal:
    return await refusal(_read(models) if stream else models.inference().Complete(ask(CHAT)))


def _body(message: dict[str, Any], stream: bool, finish: str = "stop") -> str:
    choice = {"delta" if stream else "message": message, "finish_reason": finish}
    document = json.dumps({"choices": [choice]})
    return f"data: {document}\n\ndata: [DONE]\n\n" if stream else document


@pytest.mark.parametrize("stream", [False, True])
async def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async with serve_models(tmp_path, monkeypatch, max_response_bytes=1_000_000) as models:
        models.llm.on(Reply(text="a" * 20_000_000, gzip=True, hang_after_headers=True), times=1)
        call = asyncio.create_task(_fails(models, stream))
        await models.llm.wait_for_calls(1, hanging=True)
        models.llm.release()
        assert (await models.inference(BOB).Complete(ask(CHAT))).text.startswith("Echo")
        failure = await call
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_BAD_RESPONSE")
        assert len(models.llm.calls) == 2


async def test_no_count_of_an_embedding_ends_the_recording_of_usage(served: Installation) -> None:
    for count in (HUGE, -1, "many"):
        row = {"index": 0, "embedding": [1.0] * 64}
        body = json.dumps({"data": [row], "usage": {"prompt_tokens": count, "total_tokens": count}})
        served.llm.on(Reply(raw_body=body), times=1)
        response = await served.inference().Embed(pb.EmbedRequest(model=EMBED, texts=[f"text {count}"]))
        assert len(response.embeddings) == 1
    (row_of_group,) = (await served.usage().QueryUsage(usage_pb2.QueryUsageRequest())).rows
    assert row_of_group.calls == 3
    assert row_of_group.input_tokens > 0
    await served.inference(BOB).Complete(ask(CHAT))
    (row_of_other,) = (await served.usage(BOB).QueryUsage(usage_pb2.QueryUsageRequest())).rows
    assert row_of_other.calls == 1


async def test_sums_of_the_largest_counts_can_be_read(served: Installation) -> None:
    usage = {"prompt_tokens": LARGEST, "completion_tokens": LARGEST}
    body = json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage})
    served.llm.on(Reply(raw_body=body))
    for _ in range(12):
        await served.inference().Complete(ask(CHAT))
    (row,) = (await served.usage().QueryUsage(usage_pb2.QueryUsageRequest())).rows
    assert (row.calls, row.input_tokens > 0, row.cost > 0) == (12, True, True)
    await served.usage().GetBudget(usage_pb2.GetBudgetRequest())


@pytest.mark.parametrize("stream", [False, True])
async def test_half_characters_stay_nowhere(models: Installation, stream: bool) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": "\ud83d"}'}}
    message = {"content": "hi \ud83d", "reasoning_content": "so \ude00", "tool_calls": [call]}
    models.llm.on(Reply(raw_body=_body(message, stream, "tool_calls")))
    if stream:
        pieces = await _read(models)
        said = "".join(piece.text for piece in pieces)
        thought = "".join(piece.reasoning for piece in pieces)
        arguments = "".join(piece.tool_call.arguments_json for piece in pieces)
    else:
        whole = await models.inference().Complete(ask(CHAT))
        said, thought, arguments = whole.text, whole.reasoning, whole.tool_calls[0].arguments_json
    assert (said, thought, json.loads(arguments)) == ("hi \ufffd", "so \ufffd", {"x": "\ufffd"})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_access_is_quoted_and_sent_once(models: Installation, stream: bool) -> None:
    words = "The endpoint is temporarily disabled due to a Databricks-set rate limit of 0"
    models.llm.on(Reply(fault=Fault(status=403, message=words)))
    failure = await _fails(models, stream)
    assert failure.reason == "UPSTREAM_CREDENTIAL_REJECTED"
    assert words in failure.message
    assert "store a valid" not in failure.message
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_key_is_told_in_the_upstreams_words_unless_they_hold_it(
    models: Installation, stream: bool
) -> None:
    models.llm.on(Reply(fault=Fault(status=401, message="Incorrect API key provided: sk-emul****7890.")), times=2)
    assert "sk-emul****7890" in (await _fails(models, stream)).message
    models.llm.clear_rules()
    models.llm.on(Reply(fault=Fault(status=401, message=f"Incorrect API key provided: {KEY}.")))
    failure = await _fails(models, stream)
    assert failure.reason == "UPSTREAM_CREDENTIAL_REJECTED"
    assert KEY not in failure.raw


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
async def test_outages_are_tried_again_for_streams_too(models: Installation, status: int) -> None:
    models.llm.on(Reply(fault=Fault(status=status, retry_after="0")), times=1)
    models.llm.on(Reply(text="hello"), times=1)
    assert "".join(piece.text for piece in await _read(models)) == "hello"
    assert len(models.llm.calls) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [Fault(status=408), Fault(status=502, sent_as=200, message="bad gateway there")])
async def test_an_outage_that_stays_is_one(models: Installation, fault: Fault, stream: bool) -> None:
    models.llm.on(Reply(fault=fault))
    failure = await _fails(models, stream)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert fault.message in failure.message
    assert len(models.llm.calls) > 1


@pytest.mark.parametrize("cut", [150, 400, 401, 455])
async def test_a_connection_cut_anywhere_in_a_stream_is_an_outage(models: Installation, cut: int) -> None:
    # Inside the first event, which is not passed on, and inside later ones.
    models.llm.on(Reply(chunks=["one ", "two ", "three"], cut_after_bytes=cut))
    failure = await _fails(models, True)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")


async def test_an_upstream_that_sends_headers_alone_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ReadLimits(monkeypatch, response_body)
    async with serve_models(tmp_path, monkeypatch, first_byte_seconds=600, retry_base_seconds=0.01) as models:
        models.llm.on(Reply(hang_after_headers=True), times=1)
        models.llm.on(Reply(text="hello"))
        reading = asyncio.create_task(_read(models))
        await limits.pass_in(models, 1)
        assert "".join(piece.text for piece in await reading) == "hello"
        assert len(models.llm.calls) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_was_at_hand_is_asked_for_anew_when_it_is_refused(models: Installation, stream: bool) -> None:
    await models.inference().Complete(ask(CHAT))
    models.llm.on(Reply(fault=Fault(status=401)), times=1)
    models.llm.on(Reply(text="hello"))
    if stream:
        assert "".join(piece.text for piece in await _read(models)) == "hello"
    else:
        assert (await models.inference().Complete(ask(CHAT))).text == "hello"
    assert len(models.llm.calls) == 3


async def test_embeddings_do_not_wait_for_another_groups_calls(models: Installation) -> None:
    models.llm.on(Reply(hang=True), route="chat")
    flood = [asyncio.create_task(_read(models)) for _ in range(64)]
    await models.llm.wait_for_calls(64)
    response = await models.inference(BOB).Embed(pb.EmbedRequest(model=EMBED, texts=["a text"]))
    assert len(response.embeddings) == 1
    for call in flood:
        call.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
