"""Inputs arrive as they were given."""

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.client.results import start_request
from coxswain.client.values import to_value
from coxswain.orchestrator.v1.crew_pb2 import Crew

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_what_json_can_say_comes_back_the_same(value: object) -> None:
    assert MessageToDict(to_value(value)) == value


@pytest.mark.parametrize(
    ("value", "error", "where"),
    [
        ({"a": [1, float("nan")]}, ValueError, r"inputs\.x\.a\[1\]"),
        ([10**400], ValueError, r"inputs\.x\[0\]"),
        ({"id": 12345678901234567}, ValueError, r'inputs\.x\.id: .*give it as text, "12345678901234567"'),
        (-(2**53) - 1, ValueError, r"inputs\.x: .*would be rounded"),
        ({"a": {1: 2}}, TypeError, r"inputs\.x\.a"),
        ([object()], TypeError, r"inputs\.x\[0\]"),
        (b"bytes", TypeError, r"inputs\.x"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_path(value: object, error: type[Exception], where: str) -> None:
    with pytest.raises(error, match=where):
        start_request("crew", {"x": value})


def test_whole_numbers_that_a_double_holds_are_sent() -> None:
    assert [to_value(number).number_value for number in (2**53, 10**16, -(2**60))] == [2.0**53, 1e16, -(2.0**60)]


def test_a_start_carries_what_was_asked_for() -> None:
    crew = Crew(id="c", revision=3)
    request = start_request(crew, {"n": 1}, model="m", priority=2, timeout=1.5, labels={"a": "b"})
    assert MessageToDict(request, preserving_proto_field_name=True) == {
        "crew_id": "c",
        "crew_revision": 3,
        "inputs": {"n": 1.0},
        "model": "m",
        "priority": 2,
        "timeout": "1.500s",
        "labels": {"a": "b"},
    }


def test_a_crew_is_started_by_id_or_by_name() -> None:
    crew_id = "01a20694-1f86-7c54-8594-1ba930202397"
    assert start_request(crew_id, {}).crew_id == crew_id
    assert start_request("brief", {}).crew_name == "brief"
