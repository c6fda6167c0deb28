"""Tokens that upstreams count, under all the names and in all the forms they use."""

import math
from collections.abc import Mapping
from typing import Any

from services.models.domain.usage import Usage

MAX_COUNT = 1_000_000_000
"""No call has more tokens. An upstream that claims more, or fewer than none, has counted nothing that can be used."""

_LONGEST_COUNT = 30
"""Characters."""
_WHOLES = frozenset({"prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"})
"""Fields of an upstream that does not say what its tokens are."""


def read_usage(usage: Any) -> Usage | None:
    """Return the tokens an upstream counted, or None when it counted none, or as many as no call can have.

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
    # An impossible number would lower what was used, or use up a budget at once.
    if not (0 <= (prompt or 0) <= MAX_COUNT and 0 <= (output or 0) <= MAX_COUNT):
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
    cached = _part(cached, input_tokens)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output or 0,
        reasoning_tokens=_part(_first(output_details, "reasoning_tokens"), output or 0),
        cached_input_tokens=cached,
        cache_write_input_tokens=_part(written, input_tokens - cached),
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


def _part(count: int | None, whole: int) -> int:
    return max(0, min(count or 0, whole))


def _count(value: Any) -> int | None:
    """Return a number of tokens, which may be an impossible one, or None when the value is not a number."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        # Longer texts are not counts, and Python reads them slowly.
        return int(value) if value.strip().isdecimal() and len(value) <= _LONGEST_COUNT else None
    if isinstance(value, float) and not math.isnan(value):
        return int(value) if math.isfinite(value) else (MAX_COUNT + 1 if value > 0 else -1)
    return None
