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
# What litellm turns into each provider's own form.
_LITELLM_THINKERS = re.compile(r"(?:anthropic|gemini)/.|(?:bedrock|vertex_ai|databricks)/.*(?:claude|gemini)")


def unsupported_parameters(spec: ModelSpec, sampling: Sampling) -> frozenset[str]:
    """Return the names of parameters that a model does not take in a call with this sampling.

    They are what is configured of the model, else what is known of it. In any case `thinking_budget_tokens` needs a
    provider that has a form for it.
    """
    names = frozenset(spec.unsupported_parameters) or _known_of(spec, sampling)
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
    return spec.provider is Provider.LITELLM and _LITELLM_THINKERS.match(name) is not None


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
