"""No request holds U+0000, wherever a text can stand in it."""

from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.common.grpc.nul_check import nul_paths, refuse_nul
from tests.support.descriptors import make

NUL = "a\0b"


def start(**inputs: Any) -> Message:
    struct = struct_pb2.Struct()
    struct.update(inputs)
    return make("orchestrator.v1.StartExecutionRequest", inputs=dict(struct.fields))


@pytest.mark.parametrize(
    ("message", "paths"),
    [
        (make("auth.v1.CreateGroupRequest", display_name=NUL, request_id=NUL), ["display_name", "request_id"]),
        (start(text=NUL), ["inputs.text"]),
        (start(text={"deep": ["x", NUL]}), ["inputs.text.deep[1]"]),
        (start(text={NUL: 1}), ["inputs.text"]),
        (start(**{NUL: 1}), ["inputs"]),
        (make("orchestrator.v1.StartExecutionRequest", labels={"a": NUL, "b": "fine"}), ["labels.a"]),
        (
            make(
                "memory.v1.Record",
                unified=make("memory.v1.UnifiedRecord", categories=["fine", NUL]),
                embedding=[0.0, 1.0],
            ),
            ["unified.categories[1]"],
        ),
        (struct_pb2.Value(string_value=NUL), [""]),
        (
            make("models.v1.Message", content=[make("models.v1.ContentPart"), make("models.v1.ContentPart", text=NUL)]),
            ["content[1].text"],
        ),
        (make("memory.v1.Record", embedding=[0.0, 1.0, 0.5], id="fine"), []),
    ],
)
def test_the_path_of_every_text_with_it_is_named(message: Message, paths: list[str]) -> None:
    assert list(nul_paths(message)) == paths
    data = message.SerializeToString()
    if not paths:
        refuse_nul(message, data)
        return
    with pytest.raises(InvalidArgument, match=r"U\+0000, which cannot be stored; remove it") as refused:
        refuse_nul(message, data)
    assert [violation.field for violation in refused.value.violations] == paths


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda j: st.lists(j) | st.dictionaries(st.text(), j)))
def test_json_is_refused_when_it_holds_it_and_only_then(value: object) -> None:
    request = start(value=value)
    assert bool(list(nul_paths(request))) == holds_nul(value)


def holds_nul(value: object) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            return any(holds_nul(key) or holds_nul(item) for key, item in value.items())
        case list():
            return any(map(holds_nul, value))
        case _:
            return False
