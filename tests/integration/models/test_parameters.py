"""What of a call reaches the upstream, and what is refused before it would."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import (
    CHAT,
    OFFLINE,
    REASONER,
    SEED,
    Installation,
    ask,
    ask_stream,
    refusal,
    serve_models,
    text,
)
from tests.support.llm_script import Reply, ToolCall

GPT5 = "openai/gpt-5"
CLAUDE = "databricks/databricks-claude-sonnet"
THINKER = "openai/qwen"
CAN = ["chat", "tools", "json_schema", "reasoning"]
MODELS = [
    *SEED,
    {"name": GPT5, "provider": "openai", "capabilities": CAN, "temperature": 0.3},
    {"name": CLAUDE, "provider": "databricks", "capabilities": CAN},
    {"name": THINKER, "provider": "openai", "capabilities": ["chat"], "keep_think_tags": True},
    {"name": "openai/small", "provider": "openai", "capabilities": ["chat"], "context_window": 8192},
]


@pytest.fixture
async def models(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    async with serve_models(tmp_path, monkeypatch, seed=MODELS, database_url=database_url) as installation:
        yield installation


async def _finish(models: Installation, request: pb.StreamCompleteRequest) -> pb.Finish:
    pieces: list[pb.StreamCompleteResponse] = [piece async for piece in models.inference().StreamComplete(request)]
    return pieces[-1].finish


SAMPLING = pb.Sampling(temperature=0.2, stop=["END"], seed=3, reasoning_effort="minimal")


async def test_what_a_model_does_not_take_is_refused_before_the_call(models: Installation) -> None:
    for call in (
        models.inference().Complete(ask(GPT5, sampling=SAMPLING)),
        _finish(models, ask_stream(GPT5, sampling=SAMPLING)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refused.fields == [f"completion.sampling.{name}" for name in ("temperature", "stop", "seed")]
    assert models.llm.calls == []


async def test_what_a_model_does_not_take_is_dropped_and_named_where_the_call_says_so(models: Installation) -> None:
    fields: dict[str, Any] = {"sampling": SAMPLING, "drop_unsupported_parameters": True}
    answer = await models.inference().Complete(ask(GPT5, **fields))
    assert answer.dropped_parameters == ["temperature", "stop", "seed"]
    assert (await _finish(models, ask_stream(GPT5, **fields))).dropped_parameters == answer.dropped_parameters
    for call in models.llm.calls:
        assert call.body.keys() - {"stream", "stream_options"} == {"model", "messages", "reasoning_effort"}
        assert call.body["reasoning_effort"] == "minimal"
    assert not (await models.inference().Complete(ask(CHAT, **fields))).dropped_parameters
    assert models.llm.calls[-1].body["temperature"] == 0.2


async def test_a_models_own_temperature_is_not_sent_where_it_takes_none(models: Installation) -> None:
    assert not (await models.inference().Complete(ask(GPT5))).dropped_parameters
    assert "temperature" not in models.llm.calls[0].body


async def test_what_a_model_takes_can_be_configured(models: Installation) -> None:
    made = model_pb2.Model(
        name="own",
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="gpt-5",
        capabilities=model_pb2.Capabilities(chat=True, reasoning=True),
        unsupported_parameters=["stop", "top_k"],
        keep_think_tags=True,
    )
    created = (await models.models().CreateModel(model_pb2.CreateModelRequest(model=made))).model
    assert (list(created.unsupported_parameters), created.keep_think_tags) == (["stop", "top_k"], True)
    await models.inference().Complete(ask("own", sampling=pb.Sampling(seed=3)))
    assert models.llm.calls[0].body["seed"] == 3, "what is known of the name no longer counts"
    change = model_pb2.UpdateModelRequest(
        name="own",
        model=model_pb2.Model(unsupported_parameters=["seed"]),
        update_mask=FieldMask(paths=["unsupported_parameters", "keep_think_tags"]),
    )
    changed = (await models.models().UpdateModel(change)).model
    assert (list(changed.unsupported_parameters), changed.keep_think_tags) == (["seed"], False)
    refused = await refusal(models.inference().Complete(ask("own", sampling=pb.Sampling(seed=3))))
    assert refused.fields == ["completion.sampling.seed"]
    change.model.unsupported_parameters[:] = ["Not A Name"]
    assert (await refusal(models.models().UpdateModel(change))).fields == ["model.unsupported_parameters[0]"]


@pytest.mark.parametrize("effort", ["none", "minimal", "xhigh", "max"])
async def test_an_effort_is_sent_as_it_is(models: Installation, effort: str) -> None:
    await models.inference().Complete(ask(REASONER, sampling=pb.Sampling(reasoning_effort=effort)))
    assert models.llm.calls[0].body["reasoning_effort"] == effort
    refused = await refusal(models.inference().Complete(ask(REASONER, sampling=pb.Sampling(reasoning_effort="High!"))))
    assert refused.fields == ["completion.sampling.reasoning_effort"]


async def test_a_thinking_budget_goes_up_in_the_providers_form(models: Installation) -> None:
    budget = pb.Sampling(thinking_budget_tokens=2048)
    await models.inference().Complete(ask(CLAUDE, sampling=budget))
    assert models.llm.calls[0].body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    refused = await refusal(models.inference().Complete(ask(CHAT, sampling=budget)))
    assert refused.fields == ["completion.sampling.thinking_budget_tokens"]
    answer = await models.inference().Complete(ask(CHAT, sampling=budget, drop_unsupported_parameters=True))
    assert answer.dropped_parameters == ["thinking_budget_tokens"]
    assert "thinking" not in models.llm.calls[-1].body


async def test_extra_parameters_go_up_as_they_are_if_the_operator_allows_them(models: Installation) -> None:
    given = {"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}, "min_p": 0.05}
    await models.inference().Complete(ask(CHAT, extra_parameters=to_struct(given)))
    body = models.llm.calls[0].body
    assert {name: body[name] for name in given} == given
    for name in ("model", "messages", "api_base", "stream", "tools", "kv_transfer_params"):
        refused = await refusal(models.inference().Complete(ask(CHAT, extra_parameters=to_struct({name: "x"}))))
        assert (refused.code, refused.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            [f"completion.extra_parameters.{name}"],
        )
        assert "top_k" in refused.message
    refused = await refusal(models.inference().Complete(ask(OFFLINE, extra_parameters=to_struct(given))))
    assert len(refused.fields) == 3
    assert len(models.llm.calls) == 1


async def test_an_operator_lists_what_may_be_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_models(tmp_path, monkeypatch, extra_parameters=["stop_token_ids"]) as models:
        await models.inference().Complete(ask(CHAT, extra_parameters=to_struct({"stop_token_ids": [1, 2]})))
        assert models.llm.calls[0].body["stop_token_ids"] == [1, 2]
        refused = await refusal(models.inference().Complete(ask(CHAT, extra_parameters=to_struct({"top_k": 1}))))
        assert "allowed are stop_token_ids" in refused.message


async def test_several_tool_calls_at_once_can_be_forbidden(models: Installation) -> None:
    tool = pb.ToolDefinition(name="search_files")
    models.llm.on(Reply(tool_calls=[ToolCall(name="search_files")]))
    await models.inference().Complete(ask(CHAT, tools=[tool], parallel_tool_calls=False))
    await models.inference().Complete(ask(CHAT, tools=[tool]))
    assert models.llm.calls[0].body["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in models.llm.calls[1].body


@pytest.mark.parametrize("name", ["search files", "search.files", "suche_für", "", "x" * 65])
async def test_a_tools_name_that_providers_refuse_is_refused_before_the_call(models: Installation, name: str) -> None:
    refused = await refusal(models.inference().Complete(ask(CHAT, tools=[pb.ToolDefinition(name=name)])))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["completion.tools[0].name"])
    assert "1 to 64 letters, digits, _ and -" in refused.message
    assert models.llm.calls == []


async def test_the_name_of_a_schema_is_made_fit(models: Installation) -> None:
    for name in ("a b!", "Größe", ""):
        await models.inference().Complete(
            ask(CHAT, response_format=pb.ResponseFormat(name=name, schema=to_struct({"type": "object"})))
        )
    sent = [call.body["response_format"]["json_schema"]["name"] for call in models.llm.calls]
    assert sent == ["a_b_", "Gr__e", "answer"]


async def test_a_prompt_far_too_long_is_refused_before_the_call(models: Installation) -> None:
    long = text("four" * 50_000)
    for call in (
        models.inference().Complete(ask("openai/small", long)),
        _finish(models, ask_stream("openai/small", long)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_WINDOW_EXCEEDED")
        assert refused.metadata == {"model": "openai/small", "context_window": "8192", "estimated_tokens": "40821"}
    assert models.llm.calls == []
    await models.inference().Complete(ask("openai/small", text("four" * 9_000)))
    await models.inference().Complete(ask(REASONER, long))
    assert len(models.llm.calls) == 2


async def test_thoughts_in_tags_stay_where_the_model_says_so(models: Installation) -> None:
    thought = "<think>so</think>hello"
    models.llm.on(Reply(text=thought))
    kept = await models.inference().Complete(ask(THINKER))
    assert (kept.text, kept.reasoning) == (thought, "")
    parted = await models.inference().Complete(ask(CHAT))
    assert (parted.text, parted.reasoning) == ("hello", "so")
    pieces = [piece async for piece in models.inference().StreamComplete(ask_stream(THINKER))]
    assert "".join(piece.text for piece in pieces) == thought
