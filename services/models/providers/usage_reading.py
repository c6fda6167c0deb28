"""Tokens that upstreams count, under all the names and in all the forms they use."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from services.models.domain.usage import Usage

MAX_COUNT = 1_000_000_000
"""No call has more tokens. An upstream that claims more, or fewer than none, has counted nothing that can be used."""

_LONGEST_COUNT = 30
"""Characters."""
_PROMPT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
_WHOLES = frozenset({*_PROMPT, *_OUTPUT, "total_tokens"})
"""Fields of an upstream that does not say what its tokens are."""
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
_CACHED = ("cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens")
_CACHE_WRITTEN = "cache_creation_input_tokens"
USAGE_FIELDS = frozenset({*_WHOLES, *_PROMPT_DETAILS, *_OUTPUT_DETAILS, *_CACHED, _CACHE_WRITTEN})
"""What `read_usage` looks at."""


def read_usage(usage: Any, *, of_answer: bool = False) -> Usage | None:
    """Return the tokens an upstream counted, or None when it counted none.

    A count that is missing is none, as in embeddings; `of_answer` says that there is a prompt and an answer to count.

    OpenAI's names and those of its Responses interface and of Anthropic are known; numbers may come as text. A count
    that no call can have is as good as none: the others count, and it is what they leave of the total. Where there is
    no total, `uncounted` names it.
    """
    if not isinstance(usage, dict):
        return None
    prompt, output = _first(usage, *_PROMPT), _first(usage, *_OUTPUT)
    if prompt is None and output is None:
        return None
    guessed = False
    uncounted: Literal["", "input", "output"] = ""
    if prompt is None or output is None:
        missing = _PROMPT if prompt is None else _OUTPUT
        guessed = of_answer or any(usage.get(name) is not None for name in missing)
        known, total, rest = prompt or output or 0, _first(usage, "total_tokens"), 0
        if guessed and total is not None and total >= known:
            rest = total - known
        elif guessed:
            uncounted = "input" if prompt is None else "output"
        prompt, output = (rest if prompt is None else prompt), (rest if output is None else output)
    if usage.keys() <= _WHOLES:
        return Usage(input_tokens=prompt, output_tokens=output, estimated=guessed, uncounted=uncounted)
    prompt_details = _details(usage, *_PROMPT_DETAILS)
    output_details = _details(usage, *_OUTPUT_DETAILS)
    cached = _first(prompt_details, "cached_tokens")
    if cached is None:
        cached = _first(usage, *_CACHED)
    written = _first(prompt_details, "cache_creation_tokens")
    if written is None:
        written = _first(usage, _CACHE_WRITTEN)
    # Parts are never more than the whole.
    cached = _part(cached, prompt)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        reasoning_tokens=_part(_first(output_details, "reasoning_tokens"), output),
        cached_input_tokens=cached,
        cache_write_input_tokens=_part(written, prompt - cached),
        estimated=guessed,
        uncounted=uncounted,
    )


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        if isinstance(value := usage.get(name), dict):
            return value
    return {}


def _first(document: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these counts that a call can have."""
    for name in names:
        count = _count(document.get(name))
        if count is not None and 0 <= count <= MAX_COUNT:
            return count
    return None


def _part(count: int | None, whole: int) -> int:
    return min(count or 0, whole)


def _count(value: Any) -> int | None:
    """Return a number of tokens, which may be an impossible one, or None when the value is not a number."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        # Longer texts are not counts, and Python reads them slowly.
        return int(value) if len(value) <= _LONGEST_COUNT and value.strip().isdecimal() else None
    return int(value) if isinstance(value, float) and math.isfinite(value) else None
