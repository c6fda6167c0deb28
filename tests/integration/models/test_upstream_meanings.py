"""What upstreams say keeps its meaning over gRPC, whole and streamed: errors, ends, limits and usage."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from tests.integration.models.support import (
    CHAT,
    KEY,
    REASONER,
    SEED,
    Installation,
    Refusal,
    ask,
    ask_stream,
    outlasted,
    refusal,
    serve_models,
)
from tests.support.llm_script import Fault, Reply
from tests.unit.models.test_fault_reading import CONTEXT_WORDINGS, OTHER_WORDINGS

# One installation for all that stores nothing.
in_module = pytest.mark.asyncio(loop_scope="module")
CODE = grpc.StatusCode
LIMITED = "databricks/limited"
REASONS_LONG = "openai/reasons-long"
_SEED = [
    *SEED,
    {"name": LIMITED, "provider": "databricks", "capabilities": ["chat"], "max_output_tokens": 64_000},
    {
        "name": REASONS_LONG,
        "provider": "openai",
        "upstream_model": "gpt-5",
        "capabilities": ["chat", "reasoning"],
        "max_output_tokens": 128_000,
    },
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    with pytest.MonkeyPatch.context() as patch:
        # Many of these calls are meant to fail, and none to be waited for.
        settings: dict[str, Any] = {"seed": _SEED, "breaker_outages": 0, "retry_base_seconds": 0.001}
        async with serve_models(tmp_path_factory.mktemp("meanings"), patch, **settings) as installation:
            yield installation


@pytest.fixture
def upstream(shared: Installation) -> Installation:
    """The installation, with nothing scripted and nothing logged."""
    shared.llm.clear_rules()
    shared.llm.clear_log()
    return shared


async def say(models: Installation, *, stream: bool, model: str = CHAT, **fields: Any) -> pb.CompleteResponse:
    """Return an answer, put together where it is streamed."""
    if not stream:
        answer: pb.CompleteResponse = await models.inference().Complete(ask(model, **fields))
        return answer
    whole = pb.CompleteResponse()
    async for piece in models.inference().StreamComplete(ask_stream(model, **fields)):
        whole.text += piece.text
        whole.reasoning += piece.reasoning
        if piece.HasField("usage"):
            whole.usage.CopyFrom(piece.usage)
        if piece.HasField("finish"):
            whole.finish_reason = piece.finish.reason
    return whole


async def fails(models: Installation, *, stream: bool, **how: Any) -> Refusal:
    return await refusal(say(models, stream=stream, **how))


def body(document: Any, *, stream: bool) -> str:
    """Return what an upstream sends with status 200."""
    return f"data: {json.dumps(document)}\n\n" if stream else json.dumps(document)


def answer_body(message: dict[str, Any], finish: Any, *, stream: bool, usage: Any = None) -> str:
    """Return an answer as a document, or as two events and the mark of the end."""
    if not stream:
        return body({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}, stream=False)
    events = [{"choices": [{"delta": message}]}, {"choices": [{"delta": {}, "finish_reason": finish}], "usage": usage}]
    return "".join(body(event, stream=True) for event in events) + "data: [DONE]\n\n"


streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@in_module
@streamed
@pytest.mark.parametrize(
    ("error", "code", "reason", "calls"),
    [
        ({"message": "Rate limit exceeded", "code": 429}, CODE.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED", 4),
        ({"message": "Provider is away", "code": 502}, CODE.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", 4),
        ("model runner has unexpectedly stopped", CODE.UNAVAILABLE, "UPSTREAM_UNAVAILABLE", 4),
        (
            {"message": "You exceeded your quota", "code": "insufficient_quota"},
            CODE.RESOURCE_EXHAUSTED,
            "UPSTREAM_QUOTA_EXHAUSTED",
            1,
        ),
        ({"message": "Key is gone", "code": 401}, CODE.FAILED_PRECONDITION, "UPSTREAM_CREDENTIAL_REJECTED", 2),
    ],
    ids=["rate", "outage", "text", "quota", "key"],
)
async def test_an_error_with_status_200_is_the_error_that_it_says(
    upstream: Installation, stream: bool, error: Any, code: grpc.StatusCode, reason: str, calls: int
) -> None:
    upstream.llm.on(Reply(raw_body=body({"error": error}, stream=stream)))
    failure = await fails(upstream, stream=stream)
    assert (failure.code, failure.reason) == (code, reason)
    assert (error if isinstance(error, str) else error["message"]) in failure.message
    assert (failure.retry_after is not None) is (calls == 4)
    assert 1 <= len(upstream.llm.calls) <= calls
    assert (len(upstream.llm.calls) == 4) is (calls == 4)
    assert KEY not in failure.raw


@in_module
@streamed
@pytest.mark.parametrize("message", CONTEXT_WORDINGS)
async def test_a_full_context_is_one_in_every_providers_words(
    upstream: Installation, stream: bool, message: str
) -> None:
    for reply in (
        Reply(fault=Fault(status=400, message=message)),
        Reply(fault=Fault(status=500, message=message)),
        Reply(fault=Fault(status=400, body=json.dumps([{"error": {"code": 400, "message": message}}]))),
        Reply(raw_body=body({"error": {"message": message, "code": 400}}, stream=stream)),
    ):
        upstream.llm.clear_rules()
        upstream.llm.clear_log()
        upstream.llm.on(reply)
        failure = await fails(upstream, stream=stream)
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "CONTEXT_WINDOW_EXCEEDED"), reply
        assert len(upstream.llm.calls) == 1


@in_module
@streamed
@pytest.mark.parametrize("message", OTHER_WORDINGS)
async def test_other_refusals_are_quoted_and_no_full_context(
    upstream: Installation, stream: bool, message: str
) -> None:
    upstream.llm.on(Reply(fault=Fault(status=400, message=message)))
    failure = await fails(upstream, stream=stream)
    assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "UPSTREAM_REJECTED")
    assert message[:60] in failure.message


@in_module
@streamed
@pytest.mark.parametrize("model", [LIMITED, REASONS_LONG])
async def test_a_limit_goes_up_only_when_a_call_asks_for_it(upstream: Installation, stream: bool, model: str) -> None:
    upstream.llm.on(Reply(text="hello"))
    await say(upstream, stream=stream, model=model)
    assert not [name for name in upstream.llm.calls[-1].body if "max" in name and "token" in name]
    for asked, sent in ((7, 7), (1_000_000, 64_000 if model == LIMITED else 128_000)):
        await say(upstream, stream=stream, model=model, sampling=pb.Sampling(max_output_tokens=asked))
        found = {name: n for name, n in upstream.llm.calls[-1].body.items() if "max" in name and "token" in name}
        assert list(found.values()) == [sent]


@in_module
@streamed
@pytest.mark.parametrize(
    ("message", "finish", "reason"),
    [
        *(({"content": "half"}, word, pb.FINISH_REASON_LENGTH) for word in ("length", "max_tokens", "MAX_TOKENS")),
        *(
            ({"content": None}, word, pb.FINISH_REASON_CONTENT_FILTER)
            for word in ("PROHIBITED_CONTENT", "refusal", "content_filter", "RECITATION", "BLOCKLIST")
        ),
        ({"content": None, "refusal": "I cannot help with that"}, "stop", pb.FINISH_REASON_CONTENT_FILTER),
        *(
            ({"content": "hello"}, word, pb.FINISH_REASON_STOP)
            for word in ("end_turn", "STOP", "eos_token", "tool_calls")
        ),
    ],
)
async def test_every_word_for_an_end_has_its_reason(
    upstream: Installation, stream: bool, message: dict[str, Any], finish: str, reason: pb.FinishReason.ValueType
) -> None:
    upstream.llm.on(Reply(raw_body=answer_body(message, finish, stream=stream)))
    answer = await say(upstream, stream=stream)
    assert answer.finish_reason == reason
    assert answer.text == (message.get("content") or message.get("refusal") or "")


@in_module
@streamed
@pytest.mark.parametrize("finish", ["error", "MALFORMED_FUNCTION_CALL", "network_error"])
@pytest.mark.parametrize("content", [None, "half an answer"])
async def test_an_end_by_an_error_is_one(upstream: Installation, stream: bool, finish: str, content: Any) -> None:
    upstream.llm.on(Reply(raw_body=answer_body({"content": content}, finish, stream=stream)))
    failure = await fails(upstream, stream=stream)
    assert failure.code is CODE.UNAVAILABLE
    assert failure.reason in {"UPSTREAM_BAD_RESPONSE", "UPSTREAM_UNAVAILABLE"}


@in_module
@streamed
@pytest.mark.parametrize(
    "message",
    [
        {"content": "<think>why</think>hello"},
        {"content": "hello", "reasoning_details": [{"type": "reasoning.text", "text": "why"}]},
        {"content": "hello", "reasoning_content": "why"},
    ],
    ids=["tags", "details", "content"],
)
async def test_thoughts_are_no_part_of_the_text(upstream: Installation, stream: bool, message: dict[str, Any]) -> None:
    upstream.llm.on(Reply(raw_body=answer_body(message, "stop", stream=stream)))
    answer = await say(upstream, stream=stream, model=REASONER)
    assert (answer.text, answer.reasoning.strip(), answer.finish_reason) == ("hello", "why", pb.FINISH_REASON_STOP)


async def test_what_was_paid_for_is_stored_as_it_was_counted_and_once(served: Installation) -> None:
    async def stored(calls: int) -> usage_pb2.UsageRow:
        async with asyncio.timeout(60):
            while True:
                found = await served.usage().QueryUsage(usage_pb2.QueryUsageRequest(model=CHAT))
                if found.rows and found.rows[0].calls >= calls:
                    row: usage_pb2.UsageRow = found.rows[0]
                    return row
                await asyncio.sleep(0.01)

    for stream, usage in (
        (False, {"input_tokens": 7, "output_tokens": 3}),
        (True, {"input_tokens": 7, "output_tokens": 3}),
        (False, {"prompt_tokens": 7.0, "completion_tokens": "3"}),
    ):
        served.llm.clear_rules()
        served.llm.on(Reply(raw_body=answer_body({"content": "hello"}, "stop", stream=stream, usage=usage)))
        answer = await say(served, stream=stream)
        assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.estimated) == (7, 3, False)
    row = await stored(3)
    assert (row.input_tokens, row.output_tokens, row.estimated_calls, row.calls) == (21, 9, 0, 3)
    served.llm.clear_rules()
    served.llm.on(Reply(hang=True))
    served.llm.clear_log()
    await outlasted(served, lambda seconds: served.inference().Complete(ask(CHAT), timeout=seconds), 1.5)
    row = await stored(4)
    assert (row.calls, row.estimated_calls, row.output_tokens) == (4, 1, 9)
    assert row.input_tokens > 21
