"""OpenAI's interface and the dialects of those who speak it."""

import base64
import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.answer import FinishReason
from services.models.domain.conversation import (
    Completion,
    ContentPart,
    Message,
    MessageRole,
    ResponseFormat,
    Sampling,
    ToolCall,
)
from services.models.domain.model import Capabilities, Model, ModelSpec, Provider
from services.models.providers.openai.answer_reader import AnswerReader, read_answer
from services.models.providers.openai.embeddings import read_embeddings
from services.models.providers.openai.message_content import read_content
from services.models.providers.openai.requests import chat_request
from services.models.providers.openai.response_errors import AnswerFailed, BadResponse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELLO = Completion("m", (Message(MessageRole.USER, (ContentPart("Hello"),)),))


def model(**fields: Any) -> Model:
    spec = ModelSpec(**{"name": "openai/m", "provider": Provider.OPENAI, **fields})
    return Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def limited(tokens: int) -> Completion:
    return Completion("m", HELLO.messages, sampling=Sampling(max_output_tokens=tokens))


def answer(message: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, **fields}]}


def test_a_call_that_says_nothing_sends_nothing_but_model_and_messages() -> None:
    assert chat_request(model(), HELLO, stream=False) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
    }


def test_a_tool_that_a_model_made_up_has_a_name_that_upstreams_take() -> None:
    said = Message(MessageRole.ASSISTANT, tool_calls=(ToolCall("c", "functions.search files", "{}"),))
    [message] = chat_request(model(), Completion("m", (said,)), stream=False)["messages"]
    assert message["tool_calls"][0]["function"]["name"] == "functions_search_files"


def test_the_limit_of_tokens_has_the_name_the_upstream_knows() -> None:
    reasoning = Capabilities(chat=True, reasoning=True)
    assert chat_request(model(), limited(5), stream=False)["max_tokens"] == 5
    assert chat_request(model(capabilities=reasoning), limited(5), stream=False)["max_completion_tokens"] == 5
    databricks = model(capabilities=reasoning, provider=Provider.DATABRICKS)
    assert chat_request(databricks, limited(5), stream=False)["max_tokens"] == 5


def test_a_call_cannot_ask_for_more_tokens_than_the_model_is_configured_with() -> None:
    assert chat_request(model(max_output_tokens=7), limited(50), stream=False)["max_tokens"] == 7


def test_a_limit_that_nobody_asked_for_is_not_sent() -> None:
    # Providers reserve quota for the whole limit before they admit a call.
    assert "max_tokens" not in chat_request(model(max_output_tokens=7), HELLO, stream=False)


def test_only_upstreams_that_know_the_option_are_asked_for_usage_in_streams() -> None:
    assert chat_request(model(), HELLO, stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in chat_request(model(provider=Provider.DATABRICKS), HELLO, stream=True)


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        (None, "", ""),
        ("plain", "plain", ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", ""),
        ([{"type": "output_text", "text": "a"}], "a", ""),
        (["raw", {"type": "text", "text": "b"}], "rawb", ""),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "r", "signature": "s"}]}],
            "",
            "r",
        ),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}, {"type": "summary_text"}]}],
            "",
            "r",
        ),
        ([{"type": "reasoning", "summary": "r"}], "", "r"),
        ([{"type": "reasoning", "text": "r"}], "", "r"),
        ([{"type": "thinking", "thinking": "r", "signature": ""}], "", "r"),
        ({"type": "text", "text": "alone"}, "alone", ""),
        ([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}], "b", ""),
        ([], "", ""),
    ],
)
def test_text_and_reasoning_are_told_apart_in_every_form_they_come_in(content: Any, text: str, reasoning: str) -> None:
    assert read_content(content) == (text, reasoning)


def test_tool_calls_are_read_in_the_forms_servers_send_them() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"function": {"name": "g", "arguments": {"y": 2}}},
        {"id": None, "function": {"name": "h", "arguments": None}},
    ]
    read = read_answer(answer({"content": None, "tool_calls": calls}, finish_reason="stop"))
    assert [(call.name, json.loads(call.arguments_json)) for call in read.tool_calls] == [
        ("f", {"x": 1}),
        ("g", {"y": 2}),
        ("h", {}),
    ]
    ids = [call.id for call in read.tool_calls]
    assert ids[0] == "a"
    assert len(set(ids)) == 3
    assert read.finish_reason is FinishReason.TOOL_CALLS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "usage",
                    "type",
                    "data",
                    "embedding",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_an_answer_is_read_or_refused_whatever_it_is(document: Any) -> None:
    for read in (read_answer, AnswerReader().feed, lambda value: read_embeddings(value, 1)):
        with contextlib.suppress(BadResponse, AnswerFailed):
            read(document)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "required": 5, "additionalProperties": False},
        {"properties": {"a": {}}, "required": [{"x": 1}], "additionalProperties": False},
        {"type": "object", "properties": "abc", "required": "abc", "additionalProperties": False},
        {"type": "object", "properties": [1], "required": [1], "additionalProperties": False},
        {"anyOf": [{"properties": None}], "properties": {"a": None}},
    ],
)
def test_a_schema_that_is_none_is_sent_as_it_is_and_not_as_strict(schema: dict[str, Any]) -> None:
    body = chat_request(model(), replace(HELLO, response_format=ResponseFormat("a", schema)), stream=False)
    sent = body["response_format"]["json_schema"]
    assert sent["schema"] == schema
    assert sent["strict"] is False


def embedded(*vectors: Any) -> dict[str, Any]:
    return {"data": [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]}


def test_embeddings_come_as_numbers_or_as_bytes_in_any_order_and_leave_at_unit_length() -> None:
    as_bytes = base64.b64encode(np.array([0.0, 5.0], dtype="<f4").tobytes()).decode()
    document = embedded([3.0, 4.0], as_bytes)
    document["data"].reverse()
    vectors = read_embeddings(document, 2).vectors
    assert np.allclose(vectors, [[0.6, 0.8], [0.0, 1.0]])
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    "document",
    [
        embedded(),
        embedded([1.0], [1.0]),
        embedded([0.0, 0.0]),
        embedded([]),
        embedded(["a"]),
        embedded("%%%"),
        embedded("AAA="),
        embedded([float("inf")]),
        embedded(None),
        {"data": [None]},
    ],
)
def test_embeddings_without_a_direction_are_refused(document: Any) -> None:
    with pytest.raises(BadResponse):
        read_embeddings(document, 1)
