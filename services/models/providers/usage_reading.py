"""Tokens that upstreams count, under all the names and in all the forms they use."""

import math
from collections.abc import Mapping
from typing import Any

from services.models.domain.usage import Usage

MAX_COUNT = 1_000_000_000
"""No call has as many tokens. What an upstream claims beyond it is cut, so that sums of many records can be stored."""


_WHOLES = frozenset({"prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"})
"""Fields of an upstream that does not say what its tokens are."""


def read_usage(usage: Any) -> Usage | None:
    """Return the tokens an upstream counted, or None when it counted none.

    OpenAI's names and those of its Responses interface and of Anthropic are known; numbers may come as text.
    """
    if not isinstance(usage, dict):
        return None
    prompt, output = (
        _first(usage, "prompt_tokens", "input_tokens"),
        _first(usage, "completion_tokens", "output_tokens"),
    )
    if prompt is None and output is None:
        return None
    if usage.keys() <= _WHOLES:
        return Usage(input_tokens=prompt or 0, output_tokens=output or 0)
    prompt_details = _details(usage, "prompt_tokens_details", "input_tokens_details")
    output_details = _details(usage, "completion_tokens_details", "output_tokens_details")
    input_tokens = prompt or 0
    cached = _first(prompt_details, "cached_tokens")
    if cached is None:
        cached = _first(usage, "cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens")
    written = _first(prompt_details, "cache_creation_tokens")
    if written is None:
        written = _first(usage, "cache_creation_input_tokens")
    # Parts are never more than the whole.
    cached = min(cached or 0, input_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output or 0,
        reasoning_tokens=min(_first(output_details, "reasoning_tokens") or 0, output or 0),
        cached_input_tokens=cached,
        cache_write_input_tokens=min(written or 0, input_tokens - cached),
    )


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        if isinstance(value := usage.get(name), dict):
            return value
    return {}


def _first(document: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = document.get(name)
        if value is not None and (count := _count(value)) is not None:
            return count
    return None


def _count(value: Any) -> int | None:
    """Return a number of tokens from 0 to MAX_COUNT, or None when the value is not a number."""
    if type(value) is int and 0 <= value <= MAX_COUNT:
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        # Longer texts are not counts, and Python reads them slowly.
        if not value.strip().isdecimal() or len(value) > 30:
            return None
        value = int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(max(0.0, min(value, float(MAX_COUNT))))
    if not isinstance(value, int):
        return None
    return max(0, min(value, MAX_COUNT))
