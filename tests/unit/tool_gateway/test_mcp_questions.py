"""Questions of servers: what people may be asked, and what not."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.tool_gateway.adapters.forms import AsksForSecret
from services.orchestrator.tool_gateway.adapters.mcp.elicitation import question_of, result_of
from services.orchestrator.tool_gateway.adapters.mcp.faults import RpcError
from services.orchestrator.tool_gateway.ports import SourceAnswer


def form(**fields: Any) -> dict[str, Any]:
    return {"message": "Please.", "requestedSchema": {"type": "object", "properties": fields}}


def test_a_form_is_shown_with_what_people_need_and_nothing_else() -> None:
    question = question_of(
        {
            "mode": "form",
            "message": "Where\x00 to\u202e?" + "x" * 5000,
            "requestedSchema": {
                "type": "object",
                "properties": {
                    "street": {
                        "type": "string",
                        "title": "Street\x1b",
                        "minLength": 1,
                        "pattern": "(a+)+$",
                        "extra": {},
                    },
                    "count": {"type": "integer", "minimum": 1, "default": 2},
                    "size": {"type": "string", "enum": ["s", "m"], "enumNames": ["Small", "Medium"]},
                    "colour": {"oneOf": [{"const": "r", "title": "Red"}, {"const": "g"}]},
                    "extras": {"type": "array", "items": {"anyOf": [{"const": "a", "title": "A"}]}, "maxItems": 2},
                },
                "required": ["street", "gone"],
            },
        }
    )
    assert question.text.startswith("Where to?xxx")
    assert len(question.text.encode()) <= 4096
    assert question.schema == {
        "type": "object",
        "properties": {
            "street": {"type": "string", "title": "Street", "minLength": 1},
            "count": {"type": "integer", "minimum": 1, "default": 2},
            "size": {"type": "string", "enum": ["s", "m"], "enumNames": ["Small", "Medium"]},
            "colour": {"type": "string", "oneOf": [{"const": "r", "title": "Red"}, {"const": "g"}]},
            "extras": {"type": "array", "items": {"anyOf": [{"const": "a", "title": "A"}]}, "maxItems": 2},
        },
        "required": ["street"],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"password": {"type": "string"}},
        {"userPin": {"type": "string"}},
        {"value": {"type": "string", "format": "password"}},
        {"value": {"type": "string", "title": "Your API key"}},
        {"value": {"type": "string", "description": "The access token of the account"}},
        {"card_number": {"type": "integer"}},
        {"client_secret": {"type": "string"}},
    ],
)
def test_secrets_are_no_matter_of_a_form(fields: dict[str, Any]) -> None:
    with pytest.raises(AsksForSecret):
        question_of(form(**fields))


@pytest.mark.parametrize("name", ["spinning", "opinion", "shipping", "keyboard", "tokens_used", "passenger"])
def test_words_that_only_look_like_secrets_may_be_asked(name: str) -> None:
    warning = "Your favourite number (do not give us your phone number, pin, or other sensitive data)."
    assert question_of(form(**{name: {"type": "integer", "description": warning}})).schema is not None

    assert question_of(form(**{name: {"type": "string"}})).schema is not None


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"mode": "telepathy", "message": "x"},
        {"requestedSchema": 7},
        {"requestedSchema": {"type": "array", "properties": {}}},
        form(a={"type": "object", "properties": {}}),
        form(a={"type": "array", "items": {"type": "string"}}),
        form(a={"type": ["string", "null"]}),
        form(a=7),
        form(a={"type": "string", "enum": []}),
        form(a={"type": "string", "enum": [{}]}),
        form(a={"oneOf": [{"title": "no const"}]}),
        form(**{"a\u200b": {"type": "string"}}),
        form(**{f"a{number}": {"type": "string"} for number in range(60)}),
        {"mode": "url", "url": "http://example.com"},
        {"mode": "url", "url": "https://user@example.com"},
        {"mode": "url", "url": "javascript:alert(1)"},
        {"mode": "url", "url": "https://example.com/\u202egpj"},
        {"mode": "url", "url": "https://example.com/" + "x" * 3000},
        {"mode": "url"},
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(params: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as refused:
        question_of(params)
    assert refused.value.message


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "enum", "oneOf", "items", "title", "const", "required", "format", "a"]
            ),
            inner,
        )
    ),
)


@given(anything, st.sampled_from(["form", "url", 7, None]))
def test_nothing_else_comes_of_whatever_a_server_sends(schema: Any, mode: Any) -> None:
    with contextlib.suppress(AsksForSecret, RpcError):
        question_of({"mode": mode, "message": schema, "requestedSchema": schema, "url": schema})


def test_answers_are_written_as_servers_take_them() -> None:
    assert result_of(SourceAnswer("accept", {"a": 1})) == {"action": "accept", "content": {"a": 1}}
    assert result_of(SourceAnswer("accept"), with_content=False) == {"action": "accept"}
    assert result_of(SourceAnswer("decline", {"a": 1})) == {"action": "decline"}
    assert result_of(SourceAnswer("whatever")) == {"action": "cancel"}
