"""What providers really send, over gRPC: every answer is whole or says what is wrong, and nothing is INTERNAL."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.providers.openai import client, response_body
from services.models.providers.openai.events import EventParser
from services.models.servicers.messages.inference import messages_from_proto
from tests.integration.models.read_limits import ReadLimits
from tests.integration.models.support import (
    CHAT,
    KEY,
    REASONER,
    Installation,
    ask,
    ask_stream,
    completion,
    read_refusal,
    refusal,
    serve_models,
)
from tests.support.harness import BOB
from tests.support.llm_script import Fault, Reply

PROMPT_TOKENS = estimate_prompt_tokens(messages_from_proto(completion(CHAT).messages))


def _stream(*deltas: dict[str, Any], finish: str | None = "stop", usage: Any = None) -> str:
    events: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    if finish is not None:
        events.append({"choices": [{"delta": {}, "finish_reason": finish}], "usage": usage})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def _whole(message: dict[str, Any], finish: str = "stop", usage: Any = None) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


async def _read(models: Installation, model: str = CHAT) -> list[pb.StreamCompleteResponse]:
    return [piece async for piece in models.inference().StreamComplete(ask_stream(model))]


def _text(pieces: list[pb.StreamCompleteResponse]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((-1, 50), (PROMPT_TOKENS, 50)), ((60, 10**20), (60, estimate_tokens("hello")))],
    ids=["prompt", "completion"],
)
async def test_a_count_that_cannot_be_is_estimated_and_the_other_one_kept(
    models: Installation, counts: tuple[int, int], expected: tuple[int, int]
) -> None:
    usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    models.llm.on(Reply(raw_body=_whole({"content": "hello"}, usage=usage)), times=1)
    answer = await models.inference().Complete(ask(CHAT))
    models.llm.on(Reply(raw_body=_stream({"content": "hello"}, usage=usage)), times=1)
    streamed = next(piece.usage for piece in await _read(models) if piece.HasField("usage"))
    for used in (answer.usage, streamed):
        assert (used.input_tokens, used.output_tokens, used.estimated) == (*expected, True)


@pytest.mark.parametrize("count", [10**20, 2**63, 1e300, "12", -5])
async def test_no_count_of_an_upstream_ends_the_recording_of_usage(models: Installation, count: Any) -> None:
    usage = {
        "prompt_tokens": count,
        "completion_tokens": count,
        "completion_tokens_details": {"reasoning_tokens": count},
    }
    models.llm.on(Reply(raw_body=_whole({"content": "hello"}, usage=usage)), times=1)
    assert (await models.inference().Complete(ask(CHAT))).text == "hello"
    models.llm.on(Reply(raw_body=_stream({"content": "hello"}, usage=usage)), times=1)
    assert _text(await _read(models)) == "hello"
    sums = await models.usage().QueryUsage(usage_pb2.QueryUsageRequest())
    assert sums.rows[0].calls == 2
    assert 0 < sums.rows[0].input_tokens < 1000, "what cannot be is estimated"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (_stream({"content": "hi \ud83d"}, {"content": "\ude00"}), "hi 😀"),
        (_stream({"content": "hi\ud83d"}), "hi\ufffd"),
        ("\ufeff" + _stream({"content": "hello"}), "hello"),
        ("data:\n\n: comment\n\n" + _stream({"content": "hello"}), "hello"),
        (_whole({"content": "hello"}), "hello"),
        (_stream({"content": "hello"}).replace('"choices"', '"error": null, "choices"'), "hello"),
        (_stream({"content": "<think>why"}, {"content": "</think>hello"}), "hello"),
        ("data: null\n\n" + _stream({"content": "a\0b"}), "a\ufffdb"),
        (_stream({"content": "hello"}).replace('"choices"', '"model": "\\ud83d\\u0000", "choices"'), "hello"),
    ],
    ids=[
        "joined halves",
        "lone half",
        "byte order mark",
        "empty data",
        "whole answer",
        "error null",
        "thoughts",
        "zero",
        "odd name of the model",
    ],
)
async def test_a_stream_in_an_odd_form_is_the_answer(models: Installation, body: str, text: str) -> None:
    models.llm.on(Reply(raw_body=body))
    pieces = await _read(models)
    assert _text(pieces) == text
    assert pieces[-1].finish.reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize("label", ["text/plain", "application/octet-stream", "application/json"])
async def test_a_response_is_what_its_bytes_are_whatever_its_label_says(models: Installation, label: str) -> None:
    models.llm.on(Reply(raw_body=_stream({"content": "hel"}, {"content": "lo"}), raw_label=label), times=1)
    pieces = await _read(models)
    assert (_text(pieces), pieces[-1].finish.reason) == ("hello", pb.FINISH_REASON_STOP)
    models.llm.on(Reply(raw_body=_whole({"content": "hello"}), raw_label=label), times=2)
    assert _text(await _read(models)) == "hello"
    assert (await models.inference().Complete(ask(CHAT))).text == "hello"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pause_in_milliseconds_counts_before_one_in_seconds(models: Installation, stream: bool) -> None:
    # Beyond any patience: the caller is told.
    models.llm.on(Reply(fault=Fault(status=429, retry_after="1", retry_after_ms="90500")), times=1)
    failure = await refusal(_read(models) if stream else models.inference().Complete(ask(CHAT)))
    assert (failure.reason, failure.retry_after) == ("UPSTREAM_RATE_LIMITED", 90.5)
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pause_of_milliseconds_is_waited_out(models: Installation, stream: bool) -> None:
    models.llm.on(Reply(fault=Fault(status=429, retry_after="90", retry_after_ms="20")), times=1)
    models.llm.on(Reply(text="hello"), times=1)
    text = _text(await _read(models)) if stream else (await models.inference().Complete(ask(CHAT))).text
    assert text == "hello"
    assert len(models.llm.calls) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_one_with_every_status_of_success(models: Installation, stream: bool) -> None:
    body = _stream({"content": "hello"}) if stream else _whole({"content": "hello"})
    models.llm.on(Reply(raw_body=body, raw_status=201), times=1)
    answer = _text(await _read(models)) if stream else (await models.inference().Complete(ask(CHAT))).text
    assert answer == "hello"
    # Not everything that succeeds is an answer.
    models.llm.on(Reply(raw_body='{"status": "queued"}', raw_status=202))
    failure = await refusal(_read(models) if stream else models.inference().Complete(ask(CHAT)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_BAD_RESPONSE")


@pytest.mark.parametrize("arguments", ['{"x": "\0"}', r'{"x": "\u0000"}', r'{"x": "\ud83d"}'])
async def test_an_answer_with_a_zero_in_it_is_taken_back_in_the_next_turn(models: Installation, arguments: str) -> None:
    call: dict[str, Any] = {"id": "a\0", "function": {"name": "f", "arguments": arguments}}
    pieces: list[dict[str, Any]] = [
        {**call, "function": {"name": "f", "arguments": arguments[:9]}},
        {"function": {"arguments": arguments[9:]}},
    ]
    models.llm.on(Reply(raw_body=_stream(*({"tool_calls": [{"index": 0, **piece}]} for piece in pieces))), times=1)
    streamed = "".join(piece.tool_call.arguments_json for piece in await _read(models))
    models.llm.on(Reply(raw_body=_whole({"content": "a\0", "tool_calls": [call]}, "tool_calls")), times=1)
    answer = await models.inference().Complete(ask(CHAT))
    (made,) = answer.tool_calls
    assert json.loads(made.arguments_json) == json.loads(streamed) == {"x": "\ufffd"}
    request = ask(CHAT)
    request.completion.messages.add(
        role=pb.MESSAGE_ROLE_ASSISTANT, content=[pb.ContentPart(text=answer.text)], tool_calls=answer.tool_calls
    )
    result = [pb.ContentPart(text="done")]
    request.completion.messages.add(role=pb.MESSAGE_ROLE_TOOL, content=result, tool_call_id=made.id)
    assert (await models.inference().Complete(request)).text.startswith("Echo")


async def test_an_empty_answer_that_nobody_counted_is_no_success(models: Installation) -> None:
    models.llm.on(Reply(raw_body=_whole({"content": ""})), times=1)
    models.llm.on(Reply(raw_body=_stream({"content": ""})), times=1)
    for call in (models.inference().Complete(ask(CHAT)), _read(models)):
        failure = await refusal(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_BAD_RESPONSE")
    nothing = {"prompt_tokens": 9, "completion_tokens": 0}
    models.llm.on(Reply(raw_body=_whole({"content": ""}, usage=nothing)), times=1)
    models.llm.on(Reply(raw_body=_stream({"content": ""}, usage=nothing)), times=1)
    assert (await models.inference().Complete(ask(CHAT))).finish_reason == pb.FINISH_REASON_STOP
    assert (await _read(models))[-1].finish.reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (
            {"message": "This model's maximum context length is 8192 tokens", "code": 400},
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_WINDOW_EXCEEDED",
        ),
        (
            {"message": "quota", "code": "insufficient_quota"},
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "UPSTREAM_QUOTA_EXHAUSTED",
        ),
        ({"message": "bad key", "code": 401}, grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_CREDENTIAL_REJECTED"),
    ],
)
async def test_an_error_in_the_place_of_an_answer_keeps_its_meaning(
    models: Installation, error: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    document = json.dumps({"error": error})
    for body in (document, json.dumps(error | {"object": "error"})):
        models.llm.on(Reply(raw_body=body), times=1)
        failure = await refusal(models.inference().Complete(ask(CHAT)))
        assert (failure.code, failure.reason, failure.retry_after) == (code, reason, None)
    for body in (document, f"data: {document}\n\n"):
        models.llm.on(Reply(raw_body=body), times=1)
        failure = await refusal(_read(models))
        assert (failure.code, failure.reason, failure.retry_after) == (code, reason, None)
    assert len(models.llm.calls) == 4


_MEMORY = json.dumps({"message": "CUDA out of memory"})
_CONTEXT_SIZE = json.dumps({"code": 400, "message": "the request exceeds the available context size"})


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("event", "reason", "words"),
    [
        (f"event: error\ndata: {_MEMORY}\n\n", "UPSTREAM_UNAVAILABLE", "CUDA out of memory"),
        ("event: error\r\ndata: CUDA out of memory\r\n\r\n", "UPSTREAM_UNAVAILABLE", "CUDA out of memory"),
        (f"data: {_MEMORY}\nevent: error\n\n", "UPSTREAM_UNAVAILABLE", "CUDA out of memory"),
        (f"error: {_CONTEXT_SIZE}\n\n", "CONTEXT_WINDOW_EXCEEDED", "available context size"),
    ],
    ids=["named", "text", "named after its data", "field of its own"],
)
async def test_an_event_that_is_named_an_error_is_one(
    models: Installation, event: str, reason: str, words: str, begun: bool
) -> None:
    half = f"data: {json.dumps({'choices': [{'delta': {'content': 'half'}}]})}\n\n"
    models.llm.on(Reply(raw_body=half + event if begun else event))
    failure = await refusal(_read(models))
    assert failure.reason == reason
    assert words in failure.message
    assert (len(models.llm.calls) > 1) == (reason == "UPSTREAM_UNAVAILABLE" and not begun)


async def test_what_comes_in_the_place_of_an_answer_is_quoted(models: Installation) -> None:
    models.llm.on(Reply(raw_body=f"data: {_MEMORY}\n\ndata: [DONE]\n\n"))
    failure = await refusal(_read(models))
    assert (failure.reason, "CUDA out of memory" in failure.message) == ("UPSTREAM_UNAVAILABLE", True)


@pytest.mark.parametrize(
    "document",
    [
        {"message": f"the key {KEY[3:]} is not valid"},
        {"choices": [{"delta": {}, "message": {}, "error": {"message": f"the key {KEY[3:]} is not valid"}}]},
    ],
    ids=["in its place", "of its choice"],
)
async def test_a_key_that_comes_in_the_place_of_an_answer_is_not_quoted(
    models: Installation, document: dict[str, Any]
) -> None:
    for body, call in (
        (json.dumps(document), lambda: models.inference().Complete(ask(CHAT))),
        (f"data: {json.dumps(document)}\n\ndata: [DONE]\n\n", lambda: _read(models)),
    ):
        models.llm.on(Reply(raw_body=body))
        failure = await refusal(call())
        assert failure.reason == "UPSTREAM_UNAVAILABLE"
        assert KEY[3:] not in failure.raw


@pytest.mark.parametrize("counts", [{"prompt_tokens": 14}, {"completion_tokens": 9}])
async def test_a_count_that_is_missing_is_estimated(models: Installation, counts: dict[str, int]) -> None:
    models.llm.on(Reply(raw_body=_whole({"content": "hello"}, usage=counts)), times=1)
    answer = await models.inference().Complete(ask(CHAT))
    models.llm.on(Reply(raw_body=_stream({"content": "hello"}, usage=counts)), times=1)
    streamed = next(piece.usage for piece in await _read(models) if piece.HasField("usage"))
    expected = (counts.get("prompt_tokens", PROMPT_TOKENS), counts.get("completion_tokens", estimate_tokens("hello")))
    for used in (answer.usage, streamed):
        assert (used.input_tokens, used.output_tokens, used.estimated) == (*expected, True)


async def test_an_outage_in_the_place_of_the_first_event_is_tried_again(models: Installation) -> None:
    accident = {"error": {"message": "The server had an accident", "type": "server_error"}}
    models.llm.on(Reply(raw_body=f"data: {json.dumps(accident)}\n\n"), times=1)
    models.llm.on(Reply(raw_body=_stream({"content": "hello"})), times=1)
    assert _text(await _read(models)) == "hello"
    assert len(models.llm.calls) == 2


async def test_an_outage_after_text_is_quoted_and_not_tried_again(models: Installation) -> None:
    event = json.dumps({"choices": [{"delta": {"content": "half"}}]})
    error = json.dumps({"error": {"message": "The server had an accident"}})
    models.llm.on(Reply(raw_body=f"data: {event}\n\ndata: {error}\n\n"))
    failure = await refusal(_read(models))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert "The server had an accident" in failure.message
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
@pytest.mark.parametrize("model", [CHAT, REASONER])
async def test_outages_are_tried_again(models: Installation, status: int, model: str) -> None:
    models.llm.on(Reply(fault=Fault(status=status, retry_after="0")), times=1)
    models.llm.on(Reply(text="hello"), times=1)
    assert (await models.inference().Complete(ask(model))).text == "hello"
    assert len(models.llm.calls) == 2


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            [
                [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}],
                [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}}],
            ],
            [("a", "f", '{"x":1}')],
        ),
        (
            [
                [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}],
                [{"index": 0, "id": "b", "function": {"name": "g", "arguments": ""}}],
            ],
            [("a", "f", '{"x":1}'), ("b", "g", "{}")],
        ),
        ([[{"index": 2**40, "id": "a", "function": {"name": "f", "arguments": "{}"}}]], [("a", "f", "{}")]),
    ],
)
async def test_streamed_tool_calls_are_what_a_whole_answer_holds(
    models: Installation, pieces: list[Any], expected: list[tuple[str, str, str]]
) -> None:
    models.llm.on(Reply(raw_body=_stream(*({"tool_calls": piece} for piece in pieces), finish="tool_calls")))
    calls: dict[int, list[str]] = {}
    deltas = await _read(models)
    for piece in deltas:
        if piece.HasField("tool_call"):
            call = calls.setdefault(piece.tool_call.index, ["", "", ""])
            call[0] += piece.tool_call.id
            call[1] += piece.tool_call.name
            call[2] += piece.tool_call.arguments_json
    assert [tuple(calls[index]) for index in sorted(calls)] == expected
    assert list(calls) == list(range(len(expected)))
    assert deltas[-1].finish.reason == pb.FINISH_REASON_TOOL_CALLS


async def test_long_ids_and_signatures_survive_the_next_turn(models: Installation) -> None:
    extra = {"google": {"thought_signature": "s" * 3000}}
    call = {"id": "i" * 1205, "extra_content": extra, "function": {"name": "f", "arguments": "{}"}}
    models.llm.on(Reply(raw_body=_whole({"content": None, "tool_calls": [call]}, "tool_calls")), times=1)
    answer = await models.inference().Complete(ask(CHAT))
    request = ask(CHAT)
    request.completion.tools.add(name="f", description="f")
    request.completion.messages.add(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=answer.tool_calls)
    request.completion.messages.add(
        role=pb.MESSAGE_ROLE_TOOL, tool_call_id=answer.tool_calls[0].id, content=[pb.ContentPart(text="done")]
    )
    models.llm.on(Reply(text="thanks"))
    assert (await models.inference().Complete(request)).text == "thanks"
    sent = models.llm.calls[-1].body["messages"][-2]["tool_calls"][0]
    assert (sent["id"], sent["extra_content"]) == ("i" * 1205, extra)


async def test_a_forged_state_of_a_provider_is_refused_by_its_field(models: Installation) -> None:
    request = ask(CHAT)
    request.completion.tools.add(name="f", description="f")
    request.completion.messages.add(
        role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="a", name="f", provider_state="[[[")]
    )
    failure = await refusal(models.inference().Complete(request))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "provider_state" in failure.message


@pytest.mark.parametrize("body", ["[" * 200_000, '{"choices":' + "[" * 200_000])
async def test_deep_documents_are_refused_as_what_they_are(models: Installation, body: str) -> None:
    models.llm.on(Reply(raw_body=body), times=2)
    for call in (models.inference().Complete(ask(CHAT)), _read(models)):
        assert (await refusal(call)).reason == "UPSTREAM_BAD_RESPONSE"
    models.llm.on(Reply(fault=Fault(status=400, body="[" * 30_000)))
    assert (await refusal(models.inference().Complete(ask(CHAT)))).reason == "UPSTREAM_REJECTED"


@pytest.mark.parametrize(
    ("message", "finish", "reason"),
    [
        ({"content": None, "refusal": "I cannot help with that"}, "stop", pb.FINISH_REASON_CONTENT_FILTER),
        ({"content": None}, "SAFETY", pb.FINISH_REASON_CONTENT_FILTER),
        ({"content": "half"}, "max_tokens", pb.FINISH_REASON_LENGTH),
        ({"content": "hello"}, "tool_calls", pb.FINISH_REASON_STOP),
    ],
)
async def test_odd_ends_have_a_reason(
    models: Installation, message: dict[str, Any], finish: str, reason: pb.FinishReason.ValueType
) -> None:
    models.llm.on(Reply(raw_body=_whole(message, finish)), times=1)
    assert (await models.inference().Complete(ask(CHAT))).finish_reason == reason
    models.llm.on(Reply(raw_body=_stream(message, finish=finish)), times=1)
    assert (await _read(models))[-1].finish.reason == reason


async def test_a_group_that_holds_all_its_calls_at_an_upstream_leaves_others_alone(models: Installation) -> None:
    models.llm.on(Reply(hang=True), times=64)
    flood = [asyncio.create_task(_read(models)) for _ in range(64)]
    await models.llm.wait_for_calls(64)
    models.llm.on(Reply(text="hello"))
    assert (await models.inference(BOB).Complete(ask(CHAT))).text == "hello"
    failure = await refusal(models.inference().Complete(ask(CHAT)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_SHARE_EXCEEDED")
    assert failure.retry_after
    for call in flood:
        call.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_an_upstream_that_sends_nothing_counts_as_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, idle = ReadLimits(monkeypatch, client), ReadLimits(monkeypatch, response_body)
    async with serve_models(
        tmp_path, monkeypatch, first_byte_seconds=600, idle_seconds=600, retry_base_seconds=0.01
    ) as models:
        models.llm.on(Reply(hang=True), times=1)
        models.llm.on(Reply(text="hello"), times=1)
        answering = asyncio.ensure_future(models.inference().Complete(ask(CHAT)))
        await silent.pass_in(models, 1)
        assert (await answering).text == "hello"
        assert len(models.llm.calls) == 2
        models.llm.on(Reply(chunks=["one", "two"], hang_after_chunks=1))
        pieces: list[str] = []
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for piece in models.inference().StreamComplete(ask_stream(CHAT)):
                pieces.append(piece.text)
                await idle.pass_in(models, 3)
        assert pieces == ["one"]
        failure = read_refusal(failed.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        assert "sent nothing for 600 s" in failure.message
        assert len(models.llm.calls) == 3


async def test_others_are_served_while_thousands_of_small_events_are_read(
    models: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    read: Counter[int] = Counter()
    feed = EventParser.feed

    def counted(parser: EventParser, chunk: bytes) -> list[str]:
        read[turns] += len(chunk)
        return feed(parser, chunk)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(EventParser, "feed", counted)
    models.llm.on(Reply(raw_body="data: {}\n\n" * 100_000 + _stream({"content": "hello"})))
    others = asyncio.create_task(take_turns())
    assert _text(await _read(models)) == "hello"
    others.cancel()
    assert sum(read.values()) > 1_000_000
    assert max(read.values()) <= 2 * 8192
