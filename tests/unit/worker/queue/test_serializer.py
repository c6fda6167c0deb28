"""What the queue stores is JSON, exceptions included, and never runs when it is read."""

import json

import pytest

from services.orchestrator.worker.queue.serializer import JsonSerializer, SegmentFailed

SERIALIZER = JsonSerializer()


@pytest.mark.parametrize("value", [None, {"args": ["id", 1], "kwargs": {}}, [1.5, "text", True]])
def test_plain_data_comes_back(value: object) -> None:
    assert SERIALIZER.deserialize(SERIALIZER.serialize(value)) == value


def test_an_exception_is_stored_by_name_and_can_be_raised_again() -> None:
    stored = SERIALIZER.serialize(LookupError("no such row"))
    json.loads(stored)
    restored = SERIALIZER.deserialize(stored)
    assert isinstance(restored, SegmentFailed)
    with pytest.raises(SegmentFailed, match="LookupError: no such row"):
        raise restored


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        SERIALIZER.serialize({"thing": object()})
