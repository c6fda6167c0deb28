"""Calls of models over real gRPC against the LLM emulator."""

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from prometheus_client import REGISTRY

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2
from services.common.grpc.json_values import to_struct
from services.models.providers.offline.extract import extract
from tests.integration.models.support import (
    CHAT,
    EMBED,
    KEY,
    OFFLINE,
    REASONER,
    Installation,
    ask,
    ask_stream,
    completion,
    outlasted,
    read_refusal,
    refusal,
    serve_models,
    text,
)
from tests.support.harness import BOB
from tests.support.llm_replies import gpt_oss_blocks
from tests.support.llm_script import Fault, Reply, ToolCall, Usage
from tests.support.waiting import PATIENCE, until

TOOL = pb.ToolDefinition(
    name="lookup",
    description="Looks a thing up.",
    parameters_schema=to_struct({"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]}),
)


def number(value: float) -> Struct:
    """Return an object that holds a number which JSON does not know."""
    return Struct(fields={"a": Value(number_value=value)})


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
RIVERS = (
    "The river rises in the northern hills and runs south for two hundred miles. Its valley feeds most of the country. "
    "Barges have carried grain down the river since the twelfth century. The river is tidal for its last thirty miles. "
    "Engineers straightened the lower river in order to drain the marshes. Floods have become rarer since then."
)


async def collect(call: Any) -> list[pb.StreamCompleteResponse]:
    return [piece async for piece in call]


def joined(pieces: list[pb.StreamCompleteResponse], kind: str) -> str:
    return "".join(getattr(piece, kind) for piece in pieces if piece.WhichOneof("delta") == kind)


async def stream_refusal(call: Any) -> tuple[list[pb.StreamCompleteResponse], Any]:
    """Return the pieces that came, and how the stream failed."""
    pieces = []
    try:
        async for piece in call:
            pieces.append(piece)
    except grpc.aio.AioRpcError as error:
        return pieces, read_refusal(error)
    raise AssertionError("the stream succeeded")


# Answers


async def test_a_call_reaches_the_upstream_with_key_and_conversation_and_brings_back_text_usage_and_cost(
    models: Installation,
) -> None:
    models.llm.on(
        Reply(
            text="Paris", usage=Usage(prompt_tokens=1000, completion_tokens=500, cached_tokens=100, reasoning_tokens=7)
        )
    )
    request = ask(
        CHAT,
        text("Be brief.", role="SYSTEM"),
        text("Read this: ", " What is the capital?", material="France is a country."),
        sampling=pb.Sampling(temperature=0, top_p=0.5, max_output_tokens=50, stop=["END"], seed=3),
    )
    response = await models.inference().Complete(request)
    assert (response.text, response.finish_reason) == ("Paris", pb.FINISH_REASON_STOP)
    assert response.upstream_model == "chat"
    assert response.usage == pb.Usage(
        input_tokens=1000, output_tokens=500, reasoning_tokens=7, cached_input_tokens=100, cost=0.002 + 0.004
    )
    (call,) = models.llm.calls
    assert (call.path, call.bearer) == ("/v1/chat/completions", KEY)
    assert call.body == {
        "model": "chat",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Read this: France is a country. What is the capital?"},
        ],
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 50,
        "stop": ["END"],
        "seed": 3,
    }


async def test_a_models_own_temperature_counts_when_a_call_names_none(models: Installation) -> None:
    await models.inference().Complete(ask(REASONER))
    await models.inference().Complete(ask(REASONER, sampling=pb.Sampling(temperature=0.75)))
    assert [call.body["temperature"] for call in models.llm.calls] == [0.25, 0.75]
    assert models.llm.calls[0].path == "/serving-endpoints/chat/completions"


async def test_a_stream_brings_text_as_it_comes_then_usage_then_finish(models: Installation) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5)
    models.llm.on(Reply(chunks=["Pa", "ri", "s, of course"], usage=usage, hang_after_chunks=2))
    call = models.inference().StreamComplete(ask_stream(CHAT))
    before = ""
    while before != "Pari":
        before += (await call.read()).text
        assert "Pari".startswith(before)
    models.llm.release()
    pieces = await collect(call)
    assert [piece.text for piece in pieces[:-2]] == ["s, of course"]
    assert pieces[-2].usage == pb.Usage(input_tokens=10, output_tokens=5, cost=(20 + 40) / 1e6)
    assert pieces[-1].finish == pb.Finish(reason=pb.FINISH_REASON_STOP, upstream_model="chat")


async def test_calls_are_counted_and_timed_by_model_and_groups_models_under_one_word(models: Installation) -> None:
    def counted(metric: str, model: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(metric, {"model": model, **labels}) or 0.0

    def seen() -> list[float]:
        return [
            counted(metric, model, **labels)
            for model in (CHAT, "own")
            for metric, labels in (
                ("coxswain_models_calls_total", {"outcome": "OK"}),
                ("coxswain_models_calls_total", {"outcome": "INVALID_ARGUMENT"}),
                ("coxswain_models_seconds_count", {}),
                ("coxswain_models_first_part_seconds_count", {}),
            )
        ]

    before = seen()
    await models.inference().Complete(ask(CHAT))
    await collect(models.inference().StreamComplete(ask_stream(CHAT)))
    models.llm.on(Reply(fault=Fault(status=400, message="no")), contains="refuse this")
    await refusal(models.inference().Complete(ask(CHAT, text("refuse this"))))
    own = model_pb2.Model(
        name="a-name-of-ours",
        provider=model_pb2.PROVIDER_OFFLINE,
        upstream_model="extract",
        capabilities=model_pb2.Capabilities(chat=True),
    )
    await models.models().CreateModel(model_pb2.CreateModelRequest(model=own))
    material = text("Sum up: ", material=RIVERS)
    await collect(models.inference().StreamComplete(ask_stream(own.name, material)))
    assert [now - then for now, then in zip(seen(), before, strict=True)] == [2, 1, 3, 1, 1, 0, 1, 1]
    assert counted("coxswain_models_seconds_count", own.name) == 0


async def test_usage_is_estimated_and_says_so_when_the_upstream_sends_none(models: Installation) -> None:
    models.llm.on(Reply(text="Twelve chars", omit_usage=True))
    whole = (await models.inference().Complete(ask(CHAT))).usage
    streamed = (await collect(models.inference().StreamComplete(ask_stream(CHAT))))[-2].usage
    for usage in (whole, streamed):
        assert usage.estimated
        assert usage.input_tokens > 0
        assert usage.output_tokens >= 3
        assert usage.cost > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_come_back_and_their_results_go_up(models: Installation, stream: bool) -> None:
    models.llm.on(
        Reply(tool_calls=[ToolCall(name="lookup", arguments={"thing": "a rather long thing"}, id="c1")]),
        last_role="user",
    )
    models.llm.on(Reply(text="Found it."), last_role="tool")
    first = completion(CHAT, text("Look it up."), tools=[TOOL], tool_choice="lookup")
    if stream:
        pieces = await collect(models.inference().StreamComplete(pb.StreamCompleteRequest(completion=first)))
        deltas = [piece.tool_call for piece in pieces if piece.WhichOneof("delta") == "tool_call"]
        assert deltas
        assert {delta.index for delta in deltas} == {0}
        call = pb.ToolCall(
            id="".join(d.id for d in deltas),
            name="".join(d.name for d in deltas),
            arguments_json="".join(d.arguments_json for d in deltas),
        )
        assert pieces[-1].finish.reason == pb.FINISH_REASON_TOOL_CALLS
    else:
        answer = await models.inference().Complete(pb.CompleteRequest(completion=first))
        (call,) = answer.tool_calls
        assert answer.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert (call.id, call.name, json.loads(call.arguments_json)) == ("c1", "lookup", {"thing": "a rather long thing"})
    sent = models.llm.calls[0].body
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "lookup"}}
    assert sent["tools"][0]["function"]["parameters"] == json_format.MessageToDict(TOOL.parameters_schema)

    assistant = pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[call])
    result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, tool_call_id="c1", content=[pb.ContentPart(text="42")])
    second = await models.inference().Complete(ask(CHAT, text("Look it up."), assistant, result, tools=[TOOL]))
    assert second.text == "Found it."
    assert models.llm.calls[1].body["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": call.arguments_json}}
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]


async def test_a_wish_for_json_reaches_the_upstream_as_schema_or_as_plain_json(models: Installation) -> None:
    for schema in (SCHEMA, {}, {"type": "object", "properties": {"a": {"type": "string"}}}):
        wish = pb.ResponseFormat(name="place", schema=to_struct(schema))
        answer = await models.inference().Complete(ask(CHAT, response_format=wish))
        assert isinstance(json.loads(answer.text), dict)
    closed, anything, loose = (call.body["response_format"] for call in models.llm.calls)
    assert closed == {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    assert anything == {"type": "json_object"}
    assert loose["json_schema"]["strict"] is False


async def test_a_schema_keeps_the_order_of_required_and_whole_numbers(models: Installation) -> None:
    properties = {name: {"type": "string", "maxLength": 7} for name in ("answer", "why", "doubts", "notes")}
    schema = {"type": "object", "properties": properties, "required": ["why", "doubts", "answer"]}
    tool = pb.ToolDefinition(name="t", parameters_schema=to_struct({"type": "object", "properties": {"s": schema}}))
    await models.inference().Complete(
        ask(CHAT, response_format=pb.ResponseFormat(schema=to_struct(schema)), tools=[tool])
    )
    (call,) = models.llm.calls
    sent = call.body["response_format"]["json_schema"]["schema"]
    for found in (sent, call.body["tools"][0]["function"]["parameters"]["properties"]["s"]):
        assert found == schema
        assert list(found["properties"]) == ["why", "doubts", "answer", "notes"]
        assert isinstance(found["properties"]["why"]["maxLength"], int)


@pytest.mark.parametrize("signature", [None, "sig"])
@pytest.mark.parametrize("plain_text_deltas", [False, True])
async def test_reasoning_and_text_of_gpt_oss_blocks_are_told_apart_whole_and_streamed(
    models: Installation, signature: str | None, plain_text_deltas: bool
) -> None:
    blocks = gpt_oss_blocks("They want a greeting. ", "Hello to you, too.", signature=signature)
    models.llm.on(Reply(content_blocks=blocks, plain_text_deltas=plain_text_deltas))
    whole = await models.inference().Complete(ask(REASONER))
    pieces = await collect(models.inference().StreamComplete(ask_stream(REASONER)))
    assert (whole.reasoning, whole.text) == ("They want a greeting. ", "Hello to you, too.")
    assert (joined(pieces, "reasoning"), joined(pieces, "text")) == (whole.reasoning, whole.text)


async def test_reasoning_beside_the_content_is_brought_back(models: Installation) -> None:
    models.llm.on(Reply(reasoning="Step one.", text="Done."))
    whole = await models.inference().Complete(ask(REASONER))
    pieces = await collect(models.inference().StreamComplete(ask_stream(REASONER)))
    assert (whole.reasoning, whole.text) == ("Step one.", "Done.")
    assert (joined(pieces, "reasoning"), joined(pieces, "text")) == ("Step one.", "Done.")


async def test_an_answer_that_was_cut_says_so(models: Installation) -> None:
    answer = await models.inference().Complete(ask(CHAT, sampling=pb.Sampling(max_output_tokens=1)))
    assert answer.finish_reason == pb.FINISH_REASON_LENGTH
    pieces = await collect(
        models.inference().StreamComplete(ask_stream(CHAT, sampling=pb.Sampling(max_output_tokens=1)))
    )
    assert pieces[-1].finish.reason == pb.FINISH_REASON_LENGTH


# Refusals before the upstream is called


@pytest.mark.parametrize(
    ("fields", "capability"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": pb.ResponseFormat()}, "json_schema"),
    ],
)
async def test_the_offline_model_refuses_what_it_cannot_do(
    models: Installation, fields: dict[str, Any], capability: str
) -> None:
    for call in (
        models.inference().Complete(ask(OFFLINE, **fields)),
        collect(models.inference().StreamComplete(ask_stream(OFFLINE, **fields))),
    ):
        failure = await refusal(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LACKS_CAPABILITY")
        assert failure.metadata == {"model": OFFLINE, "capability": capability}


async def test_an_embedding_model_holds_no_conversation_and_a_chat_model_embeds_nothing(models: Installation) -> None:
    assert (await refusal(models.inference().Complete(ask(EMBED)))).metadata["capability"] == "chat"
    failure = await refusal(models.inference().Embed(pb.EmbedRequest(model=CHAT, texts=["a"])))
    assert failure.metadata["capability"] == "embeddings"
    assert models.llm.calls == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"tools": [pb.ToolDefinition(name="t", parameters_schema=number(math.inf))]},
            "completion.tools[0].parameters_schema.a",
        ),
        ({"tools": [TOOL, TOOL]}, "completion.tools"),
        ({"tools": [TOOL], "tool_choice": "another"}, "completion.tool_choice"),
        ({"tool_choice": "required"}, "completion.tool_choice"),
        (
            {"response_format": pb.ResponseFormat(schema=number(math.nan))},
            "completion.response_format.schema.a",
        ),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_field_and_costs_nothing(
    models: Installation, fields: dict[str, Any], path: str
) -> None:
    failure = await refusal(models.inference().Complete(ask(CHAT, **fields)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == [path]
    assert models.llm.calls == []


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (pb.Message(role=pb.MESSAGE_ROLE_USER), "completion.messages[0].content"),
        (
            pb.Message(role=pb.MESSAGE_ROLE_TOOL, content=[pb.ContentPart(text="x")]),
            "completion.messages[0].tool_call_id",
        ),
        (
            pb.Message(role=pb.MESSAGE_ROLE_USER, tool_calls=[pb.ToolCall(id="1", name="lookup")]),
            "completion.messages[0].tool_calls",
        ),
        (pb.Message(content=[pb.ContentPart(text="x")]), "completion.messages[0].role"),
        (pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart()]), "completion.messages[0].content[0].part"),
    ],
)
async def test_a_message_that_makes_no_sense_is_refused_by_field(
    models: Installation, message: pb.Message, path: str
) -> None:
    failure = await refusal(models.inference().Complete(ask(CHAT, message)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == [path]


# Upstreams that fail


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "faulty",
    [
        Reply(fault=Fault(status=429, retry_after="0")),
        Reply(fault=Fault(status=503)),
        Reply(fault=Fault(status=504, body="<html>gateway</html>")),
        Reply(drop=True),
    ],
    ids=["429", "503", "504", "lost connection"],
)
async def test_a_passing_failure_is_tried_again(models: Installation, faulty: Reply, stream: bool) -> None:
    models.llm.on(faulty, times=2)
    models.llm.on(Reply(text="at last"))
    if stream:
        pieces = await collect(models.inference().StreamComplete(ask_stream(CHAT)))
        assert joined(pieces, "text") == "at last"
    else:
        assert (await models.inference().Complete(ask(CHAT))).text == "at last"
    assert len(models.llm.calls) == 3


async def test_a_rate_limit_that_stays_is_reported_with_the_time_to_wait(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=429, retry_after="0.01")))
    failure = await refusal(models.inference().Complete(ask(CHAT)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED")
    assert failure.retry_after is not None
    assert len(models.llm.calls) == 4


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=429, retry_after="30")))
    failure = await refusal(models.inference().Complete(ask(CHAT), timeout=20))
    assert (failure.reason, failure.retry_after) == ("UPSTREAM_RATE_LIMITED", 30)
    assert len(models.llm.calls) == 1


async def test_a_used_up_quota_is_not_tried_again(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=429, code="insufficient_quota")))
    failure = await refusal(models.inference().Complete(ask(CHAT)))
    assert (failure.code, failure.retry_after) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (Fault(status=400, code="bad", message="no such thing"), grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED"),
        (
            Fault(status=400, code="context_length_exceeded"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_WINDOW_EXCEEDED",
        ),
        (
            Fault(status=400, message="This model's maximum context length is 8192 tokens"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_WINDOW_EXCEEDED",
        ),
        (Fault(status=404), grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_REJECTED"),
        (Fault(status=401), grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_CREDENTIAL_REJECTED"),
        (Fault(status=403), grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_CREDENTIAL_REJECTED"),
        (
            Fault(status=429, code="insufficient_quota"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "UPSTREAM_QUOTA_EXHAUSTED",
        ),
        (Fault(status=400, code="content_filter"), grpc.StatusCode.INVALID_ARGUMENT, "CONTENT_FILTERED"),
    ],
)
@pytest.mark.parametrize("model", [CHAT, REASONER])
async def test_a_refusal_is_not_tried_again_and_has_a_reason_of_its_own(
    models: Installation, fault: Fault, code: grpc.StatusCode, reason: str, model: str
) -> None:
    models.llm.on(Reply(fault=fault))
    failure = await refusal(models.inference().Complete(ask(model)))
    assert (failure.code, failure.reason, failure.metadata["model"]) == (code, reason, model)
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw_body="<html>hello</html>"),
        Reply(raw_body="{}"),
        Reply(raw_body='{"choices": []}'),
        Reply(raw_body='{"choices": [{"message": 5}]}'),
        Reply(raw_body='{"choices": [{"message": {"content": 5}}]}'),
        Reply(raw_body='{"choices": [{"message": {"tool_calls": [{}]}}]}'),
        Reply(raw_body="[1]"),
    ],
)
async def test_an_answer_that_is_none_is_an_error_never_an_empty_success(models: Installation, reply: Reply) -> None:
    models.llm.on(reply)
    for call in (
        models.inference().Complete(ask(CHAT)),
        collect(models.inference().StreamComplete(ask_stream(CHAT))),
    ):
        failure = await refusal(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_BAD_RESPONSE")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Reply(chunks=["one", "two", "three"], drop_after_chunks=2), "UPSTREAM_UNAVAILABLE"),
        (Reply(chunks=["one", "two", "three"], malformed_after_chunks=2), "UPSTREAM_BAD_RESPONSE"),
        (Reply(chunks=["one", "two", "three"], error_after_chunks=2), "UPSTREAM_UNAVAILABLE"),
    ],
    ids=["lost connection", "no JSON", "error event"],
)
@pytest.mark.parametrize("model", [CHAT, REASONER])
async def test_a_stream_that_breaks_off_fails_after_what_came_and_is_not_begun_again(
    models: Installation, broken: Reply, reason: str, model: str
) -> None:
    models.llm.on(broken)
    pieces, failure = await stream_refusal(models.inference().StreamComplete(ask_stream(model)))
    assert joined(pieces, "text") == "onetwo"
    assert failure.reason == reason
    assert len(models.llm.calls) == 1


async def test_a_stream_without_its_closing_mark_is_whole_when_its_finish_came(models: Installation) -> None:
    models.llm.on(Reply(chunks=["all"], omit_done=True))
    pieces = await collect(models.inference().StreamComplete(ask_stream(CHAT)))
    assert joined(pieces, "text") == "all"
    assert pieces[-1].WhichOneof("delta") == "finish"


async def test_an_unreachable_upstream_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The discard port: nothing listens there.
    async with serve_models(
        tmp_path, monkeypatch, key="", openai_base_url="http://127.0.0.1:9/v1", keyless_origins=["http://127.0.0.1:9"]
    ) as installation:
        failure = await refusal(installation.inference().Complete(ask(CHAT)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")


# Calls that are given up


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_its_caller_cancels_ends_upstream(models: Installation, stream: bool) -> None:
    models.llm.on(Reply(text="a b c d", hang_after_chunks=2) if stream else Reply(hang=True))
    if stream:
        call = models.inference().StreamComplete(ask_stream(CHAT))
        assert (await call.read()).text.startswith("a")
    else:
        call = models.inference().Complete(ask(CHAT))
        await models.llm.wait_for_calls(1, hanging=True)
    call.cancel()
    (ended,) = await models.llm.wait_for_calls(1, client_disconnected=True)
    assert ended.number == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_past_its_deadline_ends_here_and_upstream(models: Installation, stream: bool) -> None:
    models.llm.on(Reply(hang=True))
    inference = models.inference()

    async def call(seconds: float) -> object:
        if stream:
            return await collect(inference.StreamComplete(ask_stream(CHAT), timeout=seconds))
        return await inference.Complete(ask(CHAT), timeout=seconds)

    await outlasted(models, call, 0.3)
    await models.llm.wait_for_calls(1, client_disconnected=True)


async def test_one_hanging_upstream_holds_up_no_other_call(models: Installation) -> None:
    models.llm.on(Reply(hang=True), contains="hang")
    hanging = [asyncio.ensure_future(models.inference().Complete(ask(CHAT, text("hang")))) for _ in range(20)]
    await models.llm.wait_for_calls(20, hanging=True)
    assert (await models.inference().Complete(ask(CHAT, text("go")))).text == "Echo: go"
    models.llm.release()
    assert len(await asyncio.gather(*hanging)) == 20


# Credentials


async def test_no_secret_shows_in_errors_or_logs_even_when_the_upstream_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    echo = f"Incorrect API key provided: {KEY}"
    # Every one of the outages has to be the upstream's own.
    async with serve_models(tmp_path, monkeypatch, breaker_outages=0) as models:
        for status in (400, 401, 403, 404, 422, 429, 500, 503):
            for message in (echo, f"key {KEY[:12]}*** is wrong"):
                models.llm.clear_rules()
                models.llm.on(Reply(fault=Fault(status=status, message=message, retry_after="0")))
                failure = await refusal(models.inference().Complete(ask(CHAT)))
                assert KEY[:10] not in failure.raw
        models.llm.clear_rules()
        models.llm.on(Reply(fault=Fault(status=400, message="temperature is not supported")))
        assert "temperature is not supported" in (await refusal(models.inference().Complete(ask(CHAT)))).message
    output = capfd.readouterr()
    logged = output.out + output.err + caplog.text
    assert "call_refused" in logged
    assert KEY[:10] not in logged


async def test_without_a_key_the_call_is_refused_and_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, key="") as installation:
        failure = await refusal(installation.inference().Complete(ask(CHAT)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED")
        assert installation.llm.calls == []


async def test_an_origin_the_operator_calls_keyless_is_called_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch, key="", keyless_origins=["http://127.0.0.1:1/"]) as installation:
        assert (await refusal(installation.inference().Complete(ask(CHAT)))).reason == "CREDENTIAL_NOT_CONFIGURED"
    (tmp_path / "again").mkdir()
    from tests.support.llm_emulator import LlmEmulator

    async with LlmEmulator() as keyless:
        async with serve_models(
            tmp_path / "again",
            monkeypatch,
            key="",
            keyless_origins=[f"{keyless.url}/v1"],
            openai_base_url=f"{keyless.url}/v1",
        ) as installation:
            await installation.inference().Complete(ask(CHAT))
        assert keyless.calls[0].bearer is None


# Offline


async def test_the_offline_model_answers_with_sentences_of_the_material_and_never_of_the_instructions(
    models: Installation,
) -> None:
    request = ask(
        OFFLINE,
        text("You are a careful reader of every river report.", role="SYSTEM"),
        text("Pull the key statements about the river out of this. Be careful.\n", "\nTwo sentences.", material=RIVERS),
    )
    answer = await models.inference().Complete(request)
    sentences = answer.text.split("\n\n")
    assert len(sentences) == 2
    assert all(sentence in RIVERS for sentence in sentences)
    assert answer.finish_reason == pb.FINISH_REASON_STOP
    assert answer.usage.input_tokens > 100
    assert not answer.usage.estimated
    assert answer.usage.cost == 0
    pieces = await collect(models.inference().StreamComplete(pb.StreamCompleteRequest(completion=request.completion)))
    assert joined(pieces, "text") == answer.text
    assert [piece.WhichOneof("delta") for piece in pieces] == ["text", "text", "usage", "finish"]
    assert models.llm.calls == []


async def test_a_prompt_past_the_offline_models_window_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = [{"name": OFFLINE, "provider": "offline", "capabilities": ["chat"], "context_window": 50}]
    async with serve_models(tmp_path, monkeypatch, seed=seed) as installation:
        failure = await refusal(installation.inference().Complete(ask(OFFLINE, text("x", material=RIVERS))))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_WINDOW_EXCEEDED")
        assert failure.metadata == {"model": OFFLINE, "context_window": "50"}


async def test_a_long_offline_answer_does_not_hold_up_other_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> list[str]:
        at_work.set()
        go_on.wait(PATIENCE)
        return extract(*arguments)

    monkeypatch.setattr("services.models.providers.offline.provider.extract", held)
    seed = [{"name": OFFLINE, "provider": "offline", "capabilities": ["chat"]}]
    # Near the largest message.
    material = "\n".join(
        f"The {n}th sentence of this long report speaks of item number {n * 7}." for n in range(50_000)
    )
    async with serve_models(tmp_path, monkeypatch, seed=seed) as installation:
        slow = asyncio.ensure_future(
            installation.inference().Complete(ask(OFFLINE, text("Key points.", material=material)))
        )
        await until(at_work.is_set, "the answer is being made")
        count = pb.CountTokensRequest(model=OFFLINE, messages=[text("Hello")])
        for _ in range(5):
            await installation.inference().CountTokens(count)
        assert not slow.done()
        go_on.set()
        assert set((await slow).text.split("\n\n")) <= set(material.split("\n"))


# Embeddings and counting


async def test_embeddings_come_in_order_at_unit_length_and_in_batches(models: Installation) -> None:
    texts = [f"text number {n} about {'cats' if n % 2 else 'ships'}" for n in range(150)]
    response = await models.inference().Embed(pb.EmbedRequest(model=EMBED, texts=texts))
    vectors = np.array([embedding.values for embedding in response.embeddings], dtype=np.float32)
    assert vectors.shape == (150, 64)
    assert response.dimension == 64
    assert response.model == EMBED
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = await models.inference(BOB).Embed(pb.EmbedRequest(model=EMBED, texts=[texts[149]]))
    assert np.allclose(vectors[149], alone.embeddings[0].values, atol=1e-6)
    sizes = sorted(len(call.body["input"]) for call in models.llm.calls)
    assert sizes == [1, 22, 64, 64]
    assert response.usage.input_tokens > 150
    assert not response.usage.estimated


async def test_no_model_means_the_default_one_which_is_packaged(models: Installation) -> None:
    response = await models.inference().Embed(
        pb.EmbedRequest(texts=["the harbour at night", "ships in port", "tax law"])
    )
    assert (response.model, response.dimension) == ("offline/embed", 256)
    harbour, ships, tax = (np.array(embedding.values) for embedding in response.embeddings)
    assert math.isclose(float(harbour @ harbour), 1, abs_tol=1e-5)
    assert harbour @ ships > harbour @ tax
    assert models.llm.calls == []


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([[1.0, 0.0]], "EMBEDDING_MISMATCH"),
        ([[1.0, 0.0], [0.0, 1.0]], "UPSTREAM_BAD_RESPONSE"),
        ([[0.0] * 64], "UPSTREAM_BAD_RESPONSE"),
        ([[]], "UPSTREAM_BAD_RESPONSE"),
    ],
    ids=["dimension", "count", "zero", "empty"],
)
async def test_vectors_that_are_not_what_was_asked_for_are_an_error(
    models: Installation, vectors: list[list[float]], reason: str
) -> None:
    models.llm.on(Reply(vectors=vectors))
    failure = await refusal(models.inference().Embed(pb.EmbedRequest(model=EMBED, texts=["a"])))
    assert failure.reason == reason


async def test_more_vectors_than_a_response_can_carry_are_refused_before_they_are_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = [{"name": EMBED, "provider": "openai", "capabilities": ["embeddings"], "embedding_dimension": 4096}]
    async with serve_models(tmp_path, monkeypatch, seed=seed) as installation:
        failure = await refusal(installation.inference().Embed(pb.EmbedRequest(model=EMBED, texts=["a"] * 300)))
        assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["texts"])
        assert installation.llm.calls == []


async def test_the_largest_batch_of_the_packaged_model_fits_one_response(models: Installation) -> None:
    response = await models.inference().Embed(pb.EmbedRequest(texts=[f"sentence {n}" for n in range(2048)]))
    assert len(response.embeddings) == 2048


async def test_tokens_are_exact_where_the_tokenizer_is_at_hand_and_an_estimate_elsewhere(models: Installation) -> None:
    exact = await models.inference().CountTokens(pb.CountTokensRequest(model=OFFLINE, messages=[text("Hello there")]))
    assert exact.exact
    assert 2 <= exact.tokens <= 4
    estimate = await models.inference().CountTokens(pb.CountTokensRequest(model=CHAT, messages=[text("Hello there")]))
    assert not estimate.exact
    assert estimate.tokens > 2
    assert models.llm.calls == []


async def test_two_groups_share_no_answer(models: Installation) -> None:
    await models.inference().Complete(ask(CHAT))
    await models.inference(BOB).Complete(ask(CHAT))
    await models.inference().Complete(ask(CHAT))
    assert len(models.llm.calls) == 3
