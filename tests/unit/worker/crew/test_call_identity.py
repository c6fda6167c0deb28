"""What makes two calls of tools the same one: property tests of keys and ids."""

import json
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.worker.crew.occurrences import Occurrences
from services.orchestrator.worker.crew.tools.base import call_key
from services.orchestrator.worker.host.call_outcomes import call_id, next_call_id

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=4)
CALLS = st.lists(st.tuples(st.sampled_from(["billing/pay", "billing/look"]), st.sampled_from([1, 2, "1"])), max_size=12)


def attempt() -> Any:
    return cast("Any", SimpleNamespace(occurrences=Occurrences()))


def keys_of(calls: list[tuple[str, Any]], of: Any) -> list[str]:
    return [call_key(of, tool, {"amount": amount}) for tool, amount in calls]


@settings(max_examples=40)
@given(CALLS)
def test_every_call_of_an_attempt_is_one_of_its_own_and_the_same_in_the_next_attempt(
    calls: list[tuple[str, Any]],
) -> None:
    keys = keys_of(calls, attempt())
    assert len(set(keys)) == len(keys)
    assert keys_of(calls, attempt()) == keys
    assert all(len(key) <= 128 for key in keys)


@settings(max_examples=40)
@given(CALLS, CALLS, st.data())
def test_an_agent_that_starts_over_gets_its_calls_again_in_whichever_order_and_only_more_are_new(
    before: list[tuple[str, Any]], added: list[tuple[str, Any]], data: st.DataObject
) -> None:
    of = attempt()
    with of.occurrences.run("task"):
        first = keys_of(before, of)
    again = data.draw(st.permutations(before))
    with of.occurrences.run("task"):
        second = keys_of(again, of)
        more = keys_of(added, of)
    assert sorted(second) == sorted(first)
    assert not set(more) & set(first)


@settings(max_examples=40)
@given(CALLS, CALLS)
def test_calls_of_a_coworker_are_none_of_the_agents_own(
    own: list[tuple[str, Any]], of_coworker: list[tuple[str, Any]]
) -> None:
    of = attempt()
    with of.occurrences.run("task"):
        keys = keys_of(own, of)
        with of.occurrences.run("of a coworker"):
            keys += keys_of(of_coworker, of)
    assert len(set(keys)) == len(keys)


@settings(max_examples=40)
@given(ARGUMENTS, ARGUMENTS)
def test_calls_with_other_arguments_are_other_calls(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (call_key(attempt(), "t", one) == call_key(attempt(), "t", other)) is same
    assert call_key(attempt(), "t", one) == call_key(attempt(), "t", dict(reversed(one.items())))
    assert call_key(attempt(), "t", one) != call_key(attempt(), "u", one)


@given(st.text(max_size=64), st.integers(-1, 300), st.text(max_size=128), st.integers(1, 100))
def test_ids_fit_and_follow_from_the_call_alone(execution: str, index: int, key: str, round_: int) -> None:
    first = call_id(execution, index, key)
    assert first == call_id(execution, index, key)
    assert first != call_id(execution, index + 1, key)
    following = next_call_id(first, round_)
    assert len(first) == len(following) == 64
    assert following not in {first, next_call_id(first, round_ + 1)}
