"""Requests with more within them than can be checked in a moment are refused before anything is made of it."""

from typing import Any

import pytest
from google.protobuf.message import Message

from services.common.errors import InvalidArgument
from services.common.grpc import validation
from services.common.grpc.validation import refuse_crowds
from tests.support.descriptors import make

_ALL = 10**9
_TOO_MANY = 40_000


def _records(count: int) -> Message:
    request = make("memory.v1.SaveRecordsRequest")
    items: Any = request.records  # type: ignore[attr-defined]
    first = items.add(id="a")
    items.extend([first] * (count - 1))
    return request


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_records(_TOO_MANY), "records"),
        (make("orchestrator.v1.StartExecutionRequest", labels={str(n): "" for n in range(_TOO_MANY)}), "labels"),
    ],
    ids=["messages", "a map of texts"],
)
def test_a_crowd_is_refused_by_its_path_and_none_of_it_is_looked_at(
    request_: Message, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_arguments: object) -> Any:
        raise AssertionError("what is refused for its number has been looked at")

    monkeypatch.setattr(validation, "_messages_in", none)
    with pytest.raises(InvalidArgument) as refused:
        refuse_crowds(request_, _ALL)
    assert [violation.field for violation in refused.value.violations] == [field]


def test_what_can_be_checked_is_let_through() -> None:
    refuse_crowds(_records(20_000), _ALL)
