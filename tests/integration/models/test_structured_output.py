"""Answers that have to follow a schema, over gRPC."""

import asyncio
import contextlib
import json
from typing import Any

import grpc
import psutil
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import CHAT, REASONER, Installation, ask, ask_stream, refusal
from tests.support.harness import BOB
from tests.support.llm_script import Fault, Reply, ToolCall, Usage

SCHEMA = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
FORMAT = pb.ResponseFormat(name="price", schema=to_struct(SCHEMA))
GOOD = '{"price": 7}'
USED = Usage(prompt_tokens=10, completion_tokens=5)


async def _recorded(models: Installation) -> tuple[int, int, int]:
    rows = (await models.usage().QueryUsage(usage_pb2.QueryUsageRequest())).rows
    return sum(row.calls for row in rows), sum(row.input_tokens for row in rows), sum(row.output_tokens for row in rows)


async def test_an_answer_that_follows_its_schema_costs_one_call(models: Installation) -> None:
    models.llm.on(Reply(text=GOOD, usage=USED))
    answer = await models.inference().Complete(ask(CHAT, response_format=FORMAT))
    assert (answer.text, answer.usage.input_tokens) == (GOOD, 10)
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize("text", [f"```json\n{GOOD}\n```", f"<think>hm</think>\n{GOOD}"])
async def test_json_is_taken_out_of_fences_and_thoughts(models: Installation, text: str) -> None:
    models.llm.on(Reply(text=text))
    assert (await models.inference().Complete(ask(CHAT, response_format=FORMAT))).text == GOOD
    assert len(models.llm.calls) == 1


@pytest.mark.parametrize("model", [CHAT, REASONER])
async def test_the_model_is_shown_once_what_is_wrong(served: Installation, model: str) -> None:
    served.llm.on(Reply(text="hello", usage=USED), times=1)
    served.llm.on(Reply(text=GOOD, usage=Usage(prompt_tokens=30, completion_tokens=2)))
    answer = await served.inference().Complete(ask(model, response_format=FORMAT))
    assert (answer.text, answer.finish_reason) == (GOOD, pb.FINISH_REASON_STOP)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (40, 7)
    first, second = served.llm.calls
    assert second.body["messages"][:-2] == first.body["messages"]
    shown, request = second.body["messages"][-2:]
    assert shown == {"role": "assistant", "content": "hello"}
    assert request["role"] == "user"
    assert "has to be JSON" in request["content"]
    assert second.body["response_format"] == first.body["response_format"]
    assert await _recorded(served) == (2, 40, 7)


async def test_a_second_answer_that_does_not_follow_is_an_error_and_both_are_recorded(served: Installation) -> None:
    served.llm.on(Reply(text='{"cost": "private words"}', usage=USED))
    failure = await refusal(served.inference().Complete(ask(CHAT, response_format=FORMAT)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SCHEMA_NOT_FOLLOWED")
    assert failure.metadata == {"model": CHAT, "violations": "the answer: has to have price"}
    assert "private" not in failure.raw
    assert failure.retry_after is None
    assert len(served.llm.calls) == 2
    assert await _recorded(served) == (2, 20, 10)


async def test_a_correction_that_does_not_come_says_why(models: Installation) -> None:
    models.llm.on(Reply(text="hello", usage=USED), times=1)
    models.llm.on(Reply(fault=Fault(status=400, message="no more of this")))
    failure = await refusal(models.inference().Complete(ask(CHAT, response_format=FORMAT)))
    assert failure.reason == "SCHEMA_NOT_FOLLOWED"
    assert "no more of this" in failure.message
    assert await _recorded(models) == (1, 10, 5)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text='{"price": ', finish_reason="length"),
        Reply(text="I cannot", finish_reason="content_filter"),
        Reply(tool_calls=[ToolCall(name="f")]),
    ],
)
async def test_what_is_no_answer_is_returned_as_it_is(models: Installation, reply: Reply) -> None:
    models.llm.on(reply)
    answer = await models.inference().Complete(ask(CHAT, response_format=FORMAT, tools=[pb.ToolDefinition(name="f")]))
    assert answer.finish_reason != pb.FINISH_REASON_STOP
    assert len(models.llm.calls) == 1


async def test_any_object_is_due_where_no_schema_is_given(models: Installation) -> None:
    models.llm.on(Reply(text="[1]"), times=1)
    models.llm.on(Reply(text='{"a": 1}'))
    assert (await models.inference().Complete(ask(CHAT, response_format=pb.ResponseFormat()))).text == '{"a": 1}'
    assert len(models.llm.calls) == 2


async def _stream(models: Installation, **fields: Any) -> tuple[str, pb.Finish]:
    pieces = [piece async for piece in models.inference().StreamComplete(ask_stream(CHAT, **fields))]
    assert [piece.WhichOneof("delta") for piece in pieces[-2:]] == ["usage", "finish"]
    return "".join(piece.text for piece in pieces), pieces[-1].finish


async def test_a_stream_says_at_its_end_what_does_not_follow(models: Installation) -> None:
    models.llm.on(Reply(text='{"price": "x"}'), times=1)
    models.llm.on(Reply(text=f"```json\n{GOOD}\n```"), times=1)
    models.llm.on(Reply(text=GOOD))
    text, finish = await _stream(models, response_format=FORMAT)
    assert (text, list(finish.schema_violations)) == ('{"price": "x"}', ["price: has to be of type number"])
    assert finish.reason == pb.FINISH_REASON_SCHEMA_NOT_FOLLOWED
    _, fenced = await _stream(models, response_format=FORMAT)
    assert fenced.reason == pb.FINISH_REASON_SCHEMA_NOT_FOLLOWED
    assert list(fenced.schema_violations) == ["the answer: has to be JSON alone, without a code fence or thoughts"]
    _, good = await _stream(models, response_format=FORMAT)
    assert (good.reason, list(good.schema_violations)) == (pb.FINISH_REASON_STOP, [])
    _, free = await _stream(models)
    assert (free.reason, list(free.schema_violations)) == (pb.FINISH_REASON_STOP, [])
    assert len(models.llm.calls) == 4, "a stream is not asked again"


async def test_a_hard_pattern_of_one_group_holds_up_no_other(models: Installation) -> None:
    hard = pb.ResponseFormat(schema=to_struct({"properties": {"a": {"pattern": "^(a+)+$"}}}))
    text = json.dumps({"a": "a" * 60 + "!"})
    models.llm.on(Reply(text=text), contains="hard")
    models.llm.on(Reply(text=GOOD))
    answer = await models.inference().Complete(ask(CHAT, _user("hard"), response_format=hard))
    assert (answer.text, answer.schema_unchecked) == (text, "time"), "what cannot be checked is returned, and says so"
    assert (await models.inference(BOB).Complete(ask(CHAT, response_format=FORMAT))).text == GOOD


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "text"}, "type"),
        ({"type": "object", "properties": {"a": {"type": "str"}}}, "properties.a.type"),
        ({"anyOf": [{"type": "string"}, {"items": {"type": 7}}]}, "anyOf[1].items.type"),
        ({"properties": ["a"]}, "properties"),
        ({"required": "a"}, "required"),
    ],
)
async def test_a_schema_that_is_none_is_refused_by_its_path(
    models: Installation, schema: dict[str, Any], path: str
) -> None:
    asked = pb.ResponseFormat(schema=to_struct(schema))
    for call in (
        models.inference().Complete(ask(CHAT, response_format=asked)),
        _stream(models, response_format=asked),
    ):
        failure = await refusal(call)
        assert (failure.code, failure.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            [f"completion.response_format.schema.{path}"],
        )
    assert models.llm.calls == []


async def test_what_could_not_be_checked_says_so_whole_streamed_and_stored(models: Installation) -> None:
    models.llm.on(Reply(text=GOOD))
    elsewhere = pb.ResponseFormat(schema=to_struct({"$ref": "https://example.com/schema.json"}))
    whole = pb.CompleteRequest(completion=ask(CHAT, response_format=elsewhere).completion, request_id="once")
    for _ in range(2):
        answer = await models.inference().Complete(whole)
        assert (answer.text, answer.schema_unchecked) == (GOOD, "schema")
    text, finish = await _stream(models, response_format=elsewhere)
    assert (text, finish.schema_unchecked, list(finish.schema_violations)) == (GOOD, "schema", [])
    assert not (await models.inference().Complete(ask(CHAT, response_format=FORMAT))).schema_unchecked


async def test_the_death_of_the_checker_costs_the_check_that_it_was_at(models: Installation) -> None:
    hard = pb.ResponseFormat(schema=to_struct({"properties": {"a": {"pattern": "^(a+)+$"}}}))
    models.llm.on(Reply(text=json.dumps({"a": "a" * 60 + "!"})), contains="hard")
    models.llm.on(Reply(text=GOOD))
    call = asyncio.ensure_future(models.inference().Complete(ask(CHAT, _user("hard"), response_format=hard)))
    while not call.done():
        _kill_checkers()
        await asyncio.sleep(0.02)
    assert (await call).schema_unchecked == "busy"
    answer = await models.inference(BOB).Complete(ask(CHAT, response_format=FORMAT))
    assert (answer.text, answer.schema_unchecked) == (GOOD, "")


def _kill_checkers() -> None:
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("schema_checks/process.py" in part for part in child.cmdline()):
                child.kill()


def _user(words: str) -> pb.Message:
    return pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=words)])
