"""What litellm leaves out of a request without a word: the service knows of it, and refuses it or names it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from services.models.domain.conversation import Sampling
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.parameters import unsupported_parameters
from services.models.price_list import complete_model

MODELS = [
    "ai21/jamba-1.5-large",
    "anthropic/claude-opus-4-5",
    "anthropic/claude-opus-4-7",
    "anthropic/claude-sonnet-4-20250514",
    "anthropic/claude-sonnet-5",
    "bedrock/anthropic.claude-opus-4-7",
    "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
    "bedrock/eu.amazon.nova-pro-v1:0",
    "cerebras/gpt-oss-120b",
    "cohere/command-a-03-2025",
    "dashscope/qwen3-next-80b-a3b-instruct",
    "deepinfra/Qwen/QwQ-32B",
    "deepseek/deepseek-chat",
    "deepseek/deepseek-reasoner",
    "fireworks_ai/accounts/fireworks/models/gpt-oss-120b",
    "gemini/gemini-2.5-flash",
    "gemini/gemini-2.5-pro",
    "gemini/gemini-3-pro-preview",
    "gemini/gemini-3.1-flash-lite",
    "gemini/gemini-flash-latest",
    "groq/openai/gpt-oss-120b",
    "mistral/mistral-medium-3",
    "moonshot/kimi-k2.5",
    "moonshot/moonshot-v1-128k",
    "nebius/deepseek-ai/DeepSeek-R1",
    "novita/zai-org/glm-4.7",
    "nvidia_nim/meta/llama-3.1-70b-instruct",
    "openrouter/openai/gpt-5",
    "perplexity/sonar-deep-research",
    "sambanova/DeepSeek-R1",
    "together_ai/openai/gpt-oss-120b",
    "vertex_ai/claude-opus-4-5",
    "vertex_ai/claude-opus-4-7",
    "vertex_ai/gemini-2.5-flash",
    "vertex_ai/gemini-3.1-flash-lite",
    "xai/grok-4",
    "zai/glm-4.5",
]
PARAMETERS: dict[str, Any] = {
    "temperature": 0.3,
    "top_p": 0.5,
    "max_tokens": 77,
    "stop": ["X"],
    "seed": 7,
    "reasoning_effort": "low",
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "parallel_tool_calls": False,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.3,
    "logit_bias": {"1": 1},
    "user": "u",
    "verbosity": "low",
    "service_tier": "flex",
    "safety_identifier": "s",
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
}
OUR_NAMES = {"thinking": "thinking_budget_tokens", "max_tokens": "max_output_tokens"}
# Some are taken in another form that is lost all the same: a number of tokens that becomes an effort.
PROGRAM = """
import json, sys
import litellm
from litellm.utils import get_optional_params
litellm.suppress_debug_info = True
models, parameters = json.load(sys.stdin)
tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
lost = {}
for name in models:
    provider, _, model = name.partition("/")
    provider = "cohere_chat" if provider == "cohere" else provider
    lost[name] = []
    for parameter, value in parameters.items():
        base = {"model": model, "custom_llm_provider": provider}
        if parameter == "parallel_tool_calls":
            base["tools"] = tools
        try:
            without = get_optional_params(**base)
            found = get_optional_params(**base, **{parameter: value})
        except Exception:
            continue
        if found == without or (parameter == "thinking" and "2048" not in str(found)):
            lost[name].append(parameter)
sys.__stdout__.write("\\n" + json.dumps(lost))
"""


@pytest.fixture(scope="module")
def lost() -> dict[str, list[str]]:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([MODELS, PARAMETERS]),
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, list[str]] = json.loads(process.stdout.rpartition("\n")[2])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_what_litellm_leaves_out_is_known_of_the_model(lost: dict[str, list[str]], name: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    spec = ModelSpec("m", Provider.LITELLM, upstream_model=name)
    model = complete_model(Model("1", "g", spec, enabled=True, created_at=now, updated_at=now))
    known = unsupported_parameters(model.spec, Sampling())
    assert {OUR_NAMES.get(parameter, parameter) for parameter in lost[name]} <= known
    if "gemini" in name or "claude" in name:
        assert ("thinking_budget_tokens" in known) == ("thinking" in lost[name])
