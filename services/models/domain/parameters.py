"""Which parameters of a call a model takes."""

import re

from services.models.domain.conversation import Sampling
from services.models.domain.model import ModelSpec, Provider

# OpenAI's models that always reason: the gpt-5 family but for its chat models, and the o-series.
_OPENAI_REASONER = re.compile(r"(?:gpt-(?P<major>[5-9])(?:\.(?P<minor>\d+))?|o[1-9])(?:-(?!chat)|$)")
_FIXED = frozenset({"temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias"})
# Where reasoning is off, these models choose their words as others do.
_FIXED_WHILE_REASONING = frozenset({"temperature", "top_p"})
_FIRST_WITHOUT_REASONING = (5, 1)
_NOT_REASONING_BY_DEFAULT = frozenset({(5, 1), (5, 2), (5, 4)})
# What litellm turns into each provider's own form. The newer of these models take an effort: litellm leaves a number of
# tokens out, or makes it "medium", without a word.
_LITELLM_THINKERS = re.compile(r"(?:anthropic|gemini)/.|(?:bedrock|vertex_ai|databricks)/.*(?:claude|gemini)")
_OLDER_GEMINI = re.compile(r"gemini-(?:[12](?:\.\d+)?|exp|(?:pro|flash)(?!-(?:lite-)?latest$))(?:-|$)")
_EFFORT_CLAUDE = re.compile(r"claude-(?:fable|mythos|[a-z]+-(?:[5-9]|4[-.](?:[7-9]|\d\d))(?!\d))")
# Of these providers, litellm leaves `user` out without a word.
# fmt: off
_LITELLM_WITHOUT_USER = frozenset({
    "ai21", "bedrock", "cohere", "cohere_chat", "dashscope", "deepinfra", "deepseek", "gemini", "groq", "mistral",
    "moonshot", "nebius", "novita", "nvidia_nim", "ollama", "ollama_chat", "openrouter", "perplexity", "sambanova",
    "together_ai", "vertex_ai", "zai",
})
# fmt: on


def unsupported_parameters(spec: ModelSpec, sampling: Sampling) -> frozenset[str]:
    """Return the names of parameters that a model does not take in a call with this sampling.

    They are what is configured of the model, else what is known of it. In any case `thinking_budget_tokens` needs a
    provider that has a form for it, and what litellm would leave out without a word is among them.
    """
    names = frozenset(spec.unsupported_parameters) or _known_of(spec, sampling)
    if spec.provider is Provider.LITELLM:
        names |= _left_out_by_litellm(spec)
    if not takes_thinking_budget(spec):
        return names | {"thinking_budget_tokens"}
    if sampling.thinking_budget_tokens is not None and "claude" in spec.upstream_name.lower():
        return names | {"temperature"}
    return names


def takes_thinking_budget(spec: ModelSpec) -> bool:
    """Return whether the model's provider takes a number of tokens for thoughts."""
    name = spec.upstream_name.lower()
    if spec.provider is Provider.DATABRICKS:
        return "claude" in name
    if spec.provider is not Provider.LITELLM or not _LITELLM_THINKERS.match(name):
        return False
    if "claude" in name:
        return not _EFFORT_CLAUDE.search(name)
    return not name.startswith(("gemini/", "vertex_ai/")) or _is_older_gemini(name)


def _is_older_gemini(name: str) -> bool:
    return _OLDER_GEMINI.match(name.rpartition("/")[2]) is not None


def _left_out_by_litellm(spec: ModelSpec) -> frozenset[str]:
    name = spec.upstream_name.lower()
    provider = name.partition("/")[0]
    found = set[str]()
    if provider in _LITELLM_WITHOUT_USER and not (provider == "vertex_ai" and "claude" in name):
        found.add("user")
    if (provider == "gemini" or (provider == "vertex_ai" and "gemini" in name)) and not _is_older_gemini(name):
        found |= {"presence_penalty", "frequency_penalty"}
    if provider == "moonshot" and spec.capabilities.reasoning:
        found.add("temperature")
    return frozenset(found)


def _known_of(spec: ModelSpec, sampling: Sampling) -> frozenset[str]:
    # Servers at other addresses may be anything that took a known name.
    openais_own = spec.provider is Provider.AZURE or (spec.provider is Provider.OPENAI and not spec.base_url)
    found = _OPENAI_REASONER.match(spec.upstream_name) if openais_own and spec.capabilities.reasoning else None
    if found is None:
        return frozenset()
    if found["major"] is None:
        return _FIXED | {"parallel_tool_calls"}
    version = (int(found["major"]), int(found["minor"] or 0))
    effort = sampling.reasoning_effort
    reasons = effort != "none" if effort else version not in _NOT_REASONING_BY_DEFAULT
    return _FIXED if reasons or version < _FIRST_WITHOUT_REASONING else _FIXED - _FIXED_WHILE_REASONING
