"""What models take, and what becomes of the rest."""

import ast
import importlib.util
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.errors import InvalidArgument
from services.models.domain.conversation import Completion, ContentPart, Message, MessageRole, Sampling, ToolDefinition
from services.models.domain.extra_parameters import DEFAULT_EXTRA_PARAMETERS, may_be_allowed
from services.models.domain.model import Capabilities, Deployment, Model, ModelSpec, Provider
from services.models.domain.parameters import unsupported_parameters
from services.models.domain.tokens import estimate_tokens, least_tokens
from services.models.providers.openai.requests import chat_request
from services.models.settings import ModelsSettings
from services.models.usecases.completion_checks import CompletionChecks
from services.models.usecases.part_checks import PartChecks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELLO = Completion("m", (Message(MessageRole.USER, (ContentPart("Hello"),)),))
CHECKS = CompletionChecks(frozenset({"top_k", "min_p", "kv_transfer_params"}), PartChecks(100_000))


def spec(name: str, provider: Provider = Provider.OPENAI, **fields: Any) -> ModelSpec:
    return ModelSpec(name, provider, **{"capabilities": Capabilities(chat=True, tools=True, reasoning=True), **fields})


def model(name: str, provider: Provider = Provider.OPENAI, **fields: Any) -> Model:
    return Model("1", "", spec(name, provider, **fields), enabled=True, created_at=NOW, updated_at=NOW)


def asking(**sampling: Any) -> Completion:
    return replace(HELLO, sampling=Sampling(**sampling))


@pytest.mark.parametrize(
    ("name", "effort", "fixed"),
    [
        ("openai/gpt-5", "", True),
        ("openai/gpt-5-mini-2025-08-07", "none", True),
        ("openai/o3", "", True),
        ("openai/o4-mini", "low", True),
        ("openai/gpt-5.1", "low", True),
        ("openai/gpt-5.1", "none", False),
        ("openai/gpt-5.1", "", False),
        ("openai/gpt-5.5", "", True),
        ("openai/gpt-6-sol", "none", False),
        ("openai/gpt-5-chat-latest", "", False),
        ("openai/gpt-4o", "", False),
        ("openai/gpt-50-mini", "", False),
        ("openai/qwen3-32b", "", False),
    ],
)
def test_openais_reasoning_models_are_known_by_name(name: str, effort: str, fixed: bool) -> None:
    refused = unsupported_parameters(spec(name), Sampling(reasoning_effort=effort))
    assert ({"temperature", "top_p"} <= refused) is fixed


def test_a_reasoning_model_takes_no_stop_or_seed_even_where_it_does_not_reason() -> None:
    assert {"stop", "seed", "logit_bias"} <= unsupported_parameters(
        spec("openai/gpt-5.1"), Sampling(reasoning_effort="none")
    )


@pytest.mark.parametrize(
    "other",
    [
        spec("openai/gpt-5", base_url="https://example.com/v1"),
        spec("openai/gpt-5", capabilities=Capabilities(chat=True)),
        spec("databricks/gpt-5", Provider.DATABRICKS),
        spec("litellm/gpt-5", Provider.LITELLM),
    ],
)
def test_nothing_is_known_of_the_same_name_elsewhere(other: ModelSpec) -> None:
    assert "temperature" not in unsupported_parameters(other, Sampling())


def test_every_deployment_of_a_model_takes_what_is_sent() -> None:
    elsewhere = Deployment("https://example.com/v1", "", 1)
    cool = asking(temperature=0.2)
    assert CHECKS.fit(model("openai/gpt-5", deployments=(elsewhere,)), cool).completion is cool
    with pytest.raises(InvalidArgument, match="temperature: is not taken"):
        CHECKS.fit(model("openai/gpt-5", deployments=(elsewhere, Deployment("", "gpt-5-mini", 1))), cool)


def test_what_is_configured_replaces_what_is_known() -> None:
    configured = spec("openai/gpt-5", unsupported_parameters=("stop",))
    assert unsupported_parameters(configured, Sampling()) == {"stop", "thinking_budget_tokens"}


@pytest.mark.parametrize(
    ("provider", "upstream", "taken"),
    [
        (Provider.DATABRICKS, "databricks-claude-sonnet-4-5", True),
        (Provider.DATABRICKS, "databricks-gpt-oss-120b", False),
        (Provider.LITELLM, "anthropic/claude-sonnet-4-5", True),
        (Provider.LITELLM, "gemini/gemini-2.5-pro", True),
        (Provider.LITELLM, "bedrock/anthropic.claude-3-7-sonnet", True),
        (Provider.LITELLM, "anthropic/claude-sonnet-4-20250514", True),
        (Provider.LITELLM, "bedrock/eu.anthropic.claude-opus-4-6-v1", True),
        (Provider.LITELLM, "vertex_ai/gemini-2.5-flash", True),
        (Provider.LITELLM, "gemini/gemini-3-pro-preview", False),
        (Provider.LITELLM, "gemini/gemini-flash-latest", False),
        (Provider.LITELLM, "vertex_ai/gemini-3.1-flash-lite", False),
        (Provider.LITELLM, "anthropic/claude-opus-4-7", False),
        (Provider.LITELLM, "bedrock/global.anthropic.claude-sonnet-5", False),
        (Provider.LITELLM, "vertex_ai/claude-fable-5", False),
        (Provider.LITELLM, "groq/llama-4", False),
        (Provider.OPENAI, "claude", False),
        (Provider.OFFLINE, "extract", False),
    ],
)
def test_a_thinking_budget_is_sent_where_the_provider_has_a_form_for_it(
    provider: Provider, upstream: str, taken: bool
) -> None:
    asked = model("m", provider, upstream_model=upstream)
    budget = asking(thinking_budget_tokens=2048)
    if not taken:
        with pytest.raises(InvalidArgument) as failure:
            CHECKS.fit(asked, budget)
        assert [fault.field for fault in failure.value.violations] == ["completion.sampling.thinking_budget_tokens"]
        return
    body = chat_request(asked, CHECKS.fit(asked, budget).completion, stream=False)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}


@pytest.mark.parametrize(
    ("upstream", "name", "taken"),
    [
        ("gemini/gemini-3-flash", "presence_penalty", False),
        ("gemini/gemini-2.5-flash", "presence_penalty", True),
        ("anthropic/claude-opus-4-5", "user", True),
        ("vertex_ai/claude-opus-4-5", "user", True),
        ("vertex_ai/gemini-2.5-flash", "user", False),
        ("groq/llama-4", "user", False),
        ("xai/grok-4", "user", True),
    ],
)
def test_what_litellm_would_leave_out_without_a_word_is_refused_or_named(upstream: str, name: str, taken: bool) -> None:
    asked = model("m", Provider.LITELLM, upstream_model=upstream)
    extra = replace(HELLO, extra_parameters={name: 0.5})
    checks = CompletionChecks(frozenset({name}), PartChecks(100_000))
    if taken:
        assert checks.fit(asked, extra).completion.extra_parameters
        return
    with pytest.raises(InvalidArgument, match=f"extra_parameters.{name}: is not taken by the model"):
        checks.fit(asked, extra)
    fitted = checks.fit(asked, replace(extra, drop_unsupported_parameters=True))
    assert (fitted.dropped, fitted.completion.extra_parameters) == ((name,), {})


def test_a_thinking_claude_takes_no_temperature_not_even_its_own() -> None:
    claude = model("m", Provider.DATABRICKS, upstream_model="databricks-claude-opus", temperature=0.2)
    assert "temperature" in chat_request(claude, HELLO, stream=False)
    assert "temperature" not in chat_request(claude, asking(thinking_budget_tokens=2048), stream=False)
    with pytest.raises(InvalidArgument, match="temperature"):
        CHECKS.fit(claude, asking(thinking_budget_tokens=2048, temperature=0.3))


def test_thoughts_have_to_fit_into_the_answer() -> None:
    claude = model("m", Provider.DATABRICKS, upstream_model="databricks-claude-opus")
    with pytest.raises(InvalidArgument, match="less than max_output_tokens, which is 2048"):
        CHECKS.fit(claude, asking(thinking_budget_tokens=2048, max_output_tokens=2048))


def test_what_a_model_does_not_take_is_named_all_at_once() -> None:
    with pytest.raises(InvalidArgument) as failure:
        CHECKS.fit(model("openai/gpt-5"), asking(temperature=0.2, stop=("END",), reasoning_effort="minimal"))
    assert [fault.field for fault in failure.value.violations] == [
        "completion.sampling.temperature",
        "completion.sampling.stop",
    ]
    assert 'not taken by the model "openai/gpt-5"' in failure.value.message


def test_what_is_dropped_is_named_and_the_rest_is_sent() -> None:
    asked = replace(
        asking(temperature=0.2, top_p=0.5, seed=1, reasoning_effort="minimal", max_output_tokens=9),
        drop_unsupported_parameters=True,
    )
    fitted = CHECKS.fit(model("openai/gpt-5", temperature=0.7), asked)
    assert fitted.dropped == ("temperature", "top_p", "seed")
    body = chat_request(model("openai/gpt-5", temperature=0.7), fitted.completion, stream=False)
    assert body.keys() == {"model", "messages", "max_completion_tokens", "reasoning_effort"}


def test_a_value_that_says_nothing_is_neither_refused_nor_sent() -> None:
    fitted = CHECKS.fit(model("openai/gpt-5"), asking(temperature=1.0, top_p=1.0))
    assert fitted.dropped == ()
    assert fitted.completion.sampling == Sampling()


def test_a_call_that_fits_is_sent_as_it_is() -> None:
    asked = replace(asking(temperature=0.2, stop=("END",)), extra_parameters={"top_k": 3})
    assert CHECKS.fit(model("openai/gpt-4o"), asked).completion is asked
    assert chat_request(model("openai/gpt-4o"), asked, stream=False)["top_k"] == 3


def test_several_tool_calls_at_once_are_spoken_of_only_where_there_are_tools() -> None:
    one = replace(HELLO, parallel_tool_calls=False)
    assert "parallel_tool_calls" not in chat_request(model("openai/gpt-4o"), one, stream=False)
    with_tool = replace(one, tools=(ToolDefinition("f", "", {}),))
    assert chat_request(model("openai/gpt-4o"), with_tool, stream=False)["parallel_tool_calls"] is False
    with pytest.raises(InvalidArgument, match=r"completion\.parallel_tool_calls: is not taken"):
        CHECKS.fit(model("openai/o3"), with_tool)


def test_extra_parameters_are_refused_by_name_with_what_is_allowed() -> None:
    with pytest.raises(InvalidArgument) as failure:
        CHECKS.fit(model("openai/gpt-4o"), replace(HELLO, extra_parameters={"api_base": "x", "top_k": 1}))
    assert [fault.field for fault in failure.value.violations] == ["completion.extra_parameters.api_base"]
    assert "allowed are kv_transfer_params, min_p, top_k" in failure.value.message


def test_an_extra_parameter_can_be_one_that_a_model_does_not_take() -> None:
    picky = model("openai/m", unsupported_parameters=("top_k",))
    asked = replace(HELLO, extra_parameters={"top_k": 1, "min_p": 0.1}, drop_unsupported_parameters=True)
    fitted = CHECKS.fit(picky, asked)
    assert (fitted.dropped, dict(fitted.completion.extra_parameters)) == (("top_k",), {"min_p": 0.1})


def test_offline_models_take_no_extra_parameters() -> None:
    with pytest.raises(InvalidArgument, match="top_k: is not taken"):
        CHECKS.fit(model("offline/extract", Provider.OFFLINE), replace(HELLO, extra_parameters={"top_k": 1}))


def test_extra_parameters_have_a_size() -> None:
    with pytest.raises(InvalidArgument, match="at most 65536 bytes"):
        CHECKS.fit(model("openai/gpt-4o"), replace(HELLO, extra_parameters={"top_k": "x" * 70_000}))


def test_models_through_litellm_take_no_name_that_litellm_reads_itself() -> None:
    with pytest.raises(InvalidArgument, match="kv_transfer_params: is not allowed"):
        CHECKS.fit(
            model("m", Provider.LITELLM, upstream_model="groq/m"),
            replace(HELLO, extra_parameters={"kv_transfer_params": {}}),
        )
    found = importlib.util.find_spec("litellm")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent / "types" / "litellm_params.py"
    read_there = {
        node.target.id
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert {"api_key", "api_base", "mock_response"} <= read_there
    assert not read_there & set(DEFAULT_EXTRA_PARAMETERS)


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "messages",
        "stream",
        "tools",
        "temperature",
        "api_key",
        "api_base",
        "base_url",
        "callbacks",
        "extra_body",
        "extra_headers",
        "aws_secret",
        "Top_K",
        "top-k",
        "",
        "litellm_metadata",
        "n",
    ],
)
def test_an_operator_cannot_allow_what_changes_where_a_call_goes(name: str) -> None:
    assert not may_be_allowed(name)
    with pytest.raises(ValidationError, match="must not hold"):
        ModelsSettings(extra_parameters=["top_k", name])


def test_every_default_can_be_allowed() -> None:
    assert ModelsSettings(extra_parameters=list(DEFAULT_EXTRA_PARAMETERS)).extra_parameters
    assert all(map(may_be_allowed, [*DEFAULT_EXTRA_PARAMETERS, "stop_token_ids", "web_search_options"]))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("four" * 50_000, True),
        ("слово" * 20_000, True),
        ("海" * 50_000, True),
        ("a word " * 5_000, False),  # about 10,000 tokens by any tokenizer: the upstream's to judge
        ("слово " * 5_000, False),
        (" " * 200_000 + "code", False),
    ],
)
def test_a_prompt_is_refused_only_when_it_is_too_long_by_any_count(text: str, refused: bool) -> None:
    asked = replace(HELLO, messages=(*HELLO.messages, Message(MessageRole.USER, (ContentPart(text),))))
    small = model("openai/m", context_window=8192)
    if not refused:
        assert CHECKS.fit(small, asked).completion is asked
        return
    with pytest.raises(InvalidArgument) as failure:
        CHECKS.fit(small, asked)
    assert failure.value.reason == "CONTEXT_WINDOW_EXCEEDED"
    figures = failure.value.metadata
    assert (figures["model"], figures["context_window"]) == ("openai/m", "8192")
    assert int(figures["estimated_tokens"]) > estimate_tokens(text)
    assert "completion.messages[1]" in failure.value.message
    assert CHECKS.fit(model("openai/m", context_window=0), asked).completion is asked


def test_the_least_count_is_below_the_estimate() -> None:
    for text in ("", "a", "слово", "a b c", "海" * 7, "    " * 10, "mixed слово"):
        assert least_tokens(text) <= estimate_tokens(text)
