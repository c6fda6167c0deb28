"""Arguments that are sent as headers too: which ones, and how their values are written."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.tool_gateway.adapters.mcp.tools import (
    BadTool,
    header_marks,
    header_value,
    parameter_headers,
)


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def marked(name: Any, kind: Any = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name}


@given(st.text(st.characters(codec="utf-8")))
def test_values_come_back_as_they_were(text: str) -> None:
    value = header_value(text)
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip()
    encoded = value.startswith("=?base64?") and value.endswith("?=")
    assert (base64.b64decode(value[9:-2]).decode() if encoded else value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("us-west1", "us-west1"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ],
)
def test_the_examples_of_the_specification(text: str, value: str) -> None:
    assert header_value(text) == value


def test_marked_arguments_are_found_and_absent_ones_left_out() -> None:
    marks = header_marks(
        schema(
            region=marked("Region"),
            deep=schema(count=marked("Count", "integer"), sure=marked("Sure", "boolean")),
            default={"type": "object", "default": {"x-mcp-header": "no mark"}},
        )
    )
    assert marks == {("region",): "Region", ("deep", "count"): "Count", ("deep", "sure"): "Sure"}
    assert parameter_headers(marks, {"region": "eu", "deep": {"count": 42.0, "sure": False}}) == {
        "Mcp-Param-Region": "eu",
        "Mcp-Param-Count": "42",
        "Mcp-Param-Sure": "false",
    }
    assert parameter_headers(marks, {"region": None, "deep": []}) == {}
    assert parameter_headers(marks, {"deep": {"count": 2**53}}) == {}


@pytest.mark.parametrize(
    "bad",
    [
        schema(a=marked("")),
        schema(a=marked("two words")),
        schema(a=marked("line\r\nbreak")),
        schema(a=marked(7)),
        schema(a=marked("A", "number")),
        schema(a=marked("A", ["string", "null"])),
        schema(a=marked("Same"), b=marked("same")),
        schema(a={"type": "array", "items": marked("A")}),
        schema(a={"oneOf": [marked("A")]}),
        schema(a={"$defs": {"b": marked("A")}}),
        {"type": "object", "x-mcp-header": "Root"},
        schema(**{f"a{number}": marked(f"A{number}") for number in range(40)}),
    ],
)
def test_marks_that_break_the_rules_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadTool):
        header_marks(bad)


def test_a_deep_schema_is_looked_through() -> None:
    deep: dict[str, Any] = marked("Deep")
    for _ in range(5000):
        deep = schema(a=deep)
    assert list(header_marks(deep).values()) == ["Deep"]
