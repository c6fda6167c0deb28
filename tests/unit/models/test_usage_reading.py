"""Counts of upstreams are taken in any form and can always be stored."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.usage import Usage, completed
from services.models.providers.usage_reading import MAX_COUNT, read_usage

NO_INPUT = Usage(0, 3, estimated=True, uncounted="input")
NO_OUTPUT = Usage(7, 0, estimated=True, uncounted="output")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 3)),
        ({"input_tokens": 7, "output_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": "7", "completion_tokens": 3.0}, Usage(7, 3)),
        ({"prompt_tokens": MAX_COUNT, "completion_tokens": 3}, Usage(MAX_COUNT, 3)),
        # What no call can have used is left to an estimate.
        ({"prompt_tokens": 10**30, "completion_tokens": 3}, NO_INPUT),
        ({"prompt_tokens": 7, "completion_tokens": "9" * 30}, NO_OUTPUT),
        ({"prompt_tokens": 1e300, "completion_tokens": 3}, NO_INPUT),
        ({"prompt_tokens": float("inf"), "completion_tokens": 3}, NO_INPUT),
        ({"prompt_tokens": -5, "completion_tokens": 3}, NO_INPUT),
        ({"prompt_tokens": 7, "completion_tokens": float("-inf")}, NO_OUTPUT),
        ({"prompt_tokens": 7, "completion_tokens": float("nan")}, NO_OUTPUT),
        ({"prompt_tokens": 10**30, "completion_tokens": -1}, None),
        # Another count tells what it should have been.
        ({"prompt_tokens": -5, "completion_tokens": 3, "total_tokens": 10}, Usage(7, 3, estimated=True)),
        ({"prompt_tokens": 7, "completion_tokens": 10**30, "total_tokens": 5}, NO_OUTPUT),
        ({"prompt_tokens": 7, "completion_tokens": "many", "total_tokens": -1}, NO_OUTPUT),
        ({"prompt_tokens": -5, "input_tokens": 7, "completion_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": 7, "total_tokens": 9}, Usage(7, 0)),
        (
            {"prompt_tokens": 9, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 10**20}},
            Usage(9, 8),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 12}},
            Usage(9, 8, 8),
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": -4}, "cached_tokens": 4}, Usage(9, 0, 0, 4)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 0, 0, 4)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}, Usage(9, 0, 0, 4)),
        (
            {"input_tokens": 9, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3},
            Usage(9, 0, 0, 4, 3),
        ),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": None, "completion_tokens": "many"}, None),
        ({}, None),
        (None, None),
        ([], None),
        ("7", None),
    ],
)
def test_counts_are_read(document: Any, expected: Usage | None) -> None:
    assert read_usage(document) == expected


def test_what_was_not_counted_is_estimated() -> None:
    def estimate() -> Usage:
        return Usage(100, 50, 20, estimated=True)

    assert completed(None, estimate) == estimate()
    assert completed(NO_INPUT, estimate) == Usage(100, 3, estimated=True)
    assert completed(NO_OUTPUT, estimate) == Usage(7, 50, 20, estimated=True)
    assert completed(Usage(7, 3), estimate) == Usage(7, 3)


_NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.integers().map(str)


_IMPOSSIBLE = (
    st.booleans()
    | st.integers(max_value=-1)
    | st.integers(min_value=MAX_COUNT + 1)
    | st.floats(max_value=-1)
    | st.floats(min_value=1e10)
    | st.just(float("nan"))
    | st.text(alphabet="abc-.", max_size=40)
)
_DETAILS = ["cached_tokens", "reasoning_tokens", "cache_creation_tokens"]


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "cache_read_input_tokens"]
        ),
        _NUMBERS,
    ),
    st.dictionaries(st.sampled_from(_DETAILS), _NUMBERS),
)
def test_no_count_is_beyond_what_can_be_stored(counts: dict[str, Any], details: dict[str, Any]) -> None:
    usage = read_usage(counts | {"prompt_tokens_details": details, "completion_tokens_details": details})
    if usage is not None:
        assert 0 <= usage.input_tokens <= MAX_COUNT
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= MAX_COUNT
        assert 0 <= usage.cached_input_tokens + usage.cache_write_input_tokens <= usage.input_tokens


@given(
    st.fixed_dictionaries({"prompt_tokens": st.integers(100, MAX_COUNT), "completion_tokens": st.integers(0, 1000)}),
    st.fixed_dictionaries({"cached_tokens": st.integers(0, 50), "cache_creation_tokens": st.integers(0, 50)}),
    st.sampled_from(["prompt_tokens", "completion_tokens", "cached_tokens", "cache_creation_tokens"]),
    _IMPOSSIBLE,
)
def test_an_impossible_count_costs_none_of_the_others(
    counts: dict[str, Any], details: dict[str, Any], broken: str, impossible: Any
) -> None:
    good = read_usage(counts | {"prompt_tokens_details": details})
    for count in (counts, details):
        if broken in count:
            count[broken] = impossible
    usage = read_usage(counts | {"prompt_tokens_details": details})
    assert good is not None
    assert usage is not None
    if broken != "prompt_tokens":
        assert usage.input_tokens == good.input_tokens
        assert broken == "cached_tokens" or usage.cached_input_tokens == good.cached_input_tokens
        assert broken == "cache_creation_tokens" or usage.cache_write_input_tokens == good.cache_write_input_tokens
    if broken != "completion_tokens":
        assert usage.output_tokens == good.output_tokens
    assert usage.estimated == (broken in counts)
