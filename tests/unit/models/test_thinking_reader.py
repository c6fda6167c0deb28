"""Thinking that upstreams want back, whole and in pieces."""

import json
import math
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.answer import Delta, ReasoningDelta, TextDelta, ThinkingDelta, ToolCallDelta
from services.models.domain.conversation import ContentPart, Message, MessageRole
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.openai.answers import read_stream, read_whole
from services.models.providers.openai.messages import chat_messages
from services.models.providers.upstreams import Attempt, CallId

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def model(name: str, provider: Provider) -> Model:
    spec = ModelSpec(name=name, provider=provider, upstream_model=name)
    return Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def attempt_at(asked: Model) -> Attempt:
    return Attempt(asked, math.inf, math.inf, CallId())


DATABRICKS = model("databricks/claude", Provider.DATABRICKS)
OPENROUTER = model("own/router", Provider.OPENAI)
ANTHROPIC = model("anthropic/claude", Provider.LITELLM)
GEMINI = model("gemini/flash", Provider.LITELLM)
DEEPSEEK = model("deepseek/chat", Provider.LITELLM)
GROQ = model("groq/m", Provider.LITELLM)

SO: dict[str, Any] = {"content": "so"}
SUMMARY = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "think hard", "signature": "sig"}]}
THINKING = {"type": "thinking", "thinking": "think hard", "signature": "sig"}
REDACTED = {"type": "redacted_thinking", "data": "secret"}
ROUTED = {"type": "reasoning.text", "text": "think hard", "format": "f", "index": 0, "signature": "sig"}
ENCRYPTED = {"type": "reasoning.encrypted", "data": "secret", "index": 1}

# Upstream, the pieces of a stream, what the next turn has to send.
FORMS: list[tuple[Model, list[dict[str, Any]], dict[str, Any]]] = [
    (
        DATABRICKS,
        [
            {
                "content": [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "think ", "signature": ""}]}
                ]
            },
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hard"}]}]},
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "", "signature": "sig"}]}]},
            {"content": [{"type": "text", "text": "so"}]},
        ],
        {"content": [SUMMARY, {"type": "text", "text": "so"}]},
    ),
    (
        DATABRICKS,
        [
            {"content": [{"type": "thinking", "thinking": "think "}]},
            {"content": [{"type": "thinking", "thinking": "hard", "signature": "sig"}]},
            {"content": [REDACTED]},
            {"content": "so"},
        ],
        {"content": [THINKING, REDACTED, {"type": "text", "text": "so"}]},
    ),
    (
        ANTHROPIC,
        [
            {"reasoning_content": "think ", "thinking_blocks": [{"type": "thinking", "thinking": "think "}]},
            {"reasoning_content": "hard", "thinking_blocks": [{"type": "thinking", "thinking": "hard"}]},
            {"reasoning_content": "", "thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "sig"}]},
            {"thinking_blocks": [REDACTED]},
            {"content": "so"},
        ],
        {"content": "so", "thinking_blocks": [THINKING, REDACTED]},
    ),
    (
        OPENROUTER,
        [
            {
                "reasoning": "think ",
                "reasoning_details": [{"type": "reasoning.text", "text": "think ", "format": "f", "index": 0}],
            },
            {
                "reasoning": "hard",
                "reasoning_details": [{"type": "reasoning.text", "text": "hard", "format": "f", "index": 0}],
            },
            {"reasoning_details": [{"type": "reasoning.text", "signature": "sig", "format": "f", "index": 0}]},
            {"reasoning_details": [ENCRYPTED]},
            {"content": "so"},
        ],
        {"content": "so", "reasoning_details": [ROUTED, ENCRYPTED]},
    ),
    (
        OPENROUTER,
        [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "think hard"}]}]}, {"content": "so"}],
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "think hard"}]},
                {"type": "text", "text": "so"},
            ]
        },
    ),
    (
        GEMINI,
        [
            {"reasoning_content": "think hard"},
            {"content": "so", "provider_specific_fields": {"thought_signatures": ["sig"]}},
        ],
        {"content": "so", "provider_specific_fields": {"thought_signatures": ["sig"]}},
    ),
    (
        DEEPSEEK,
        [{"reasoning_content": "think "}, {"reasoning_content": "hard"}, {"content": "so"}],
        {"content": "so", "reasoning_content": "think hard"},
    ),
    (
        OPENROUTER,
        [{"reasoning": "think "}, {"reasoning": "hard"}, {"content": "so"}],
        {"content": "so", "reasoning": "think hard"},
    ),
    # Not wanted back, or refused: unsigned summaries, fields that the provider does not know, tags in the text.
    (
        DATABRICKS,
        [
            {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "think hard"}]}]},
            {"content": "so"},
        ],
        {"content": "so"},
    ),
    (DATABRICKS, [{"reasoning_content": "think hard"}, {"content": "so"}], {"content": "so"}),
    (GROQ, [{"reasoning_content": "think hard"}, {"content": "so"}], {"content": "so"}),
    (OPENROUTER, [{"content": "<think>think "}, {"content": "hard</think>so"}], {"content": "so"}),
]


async def streamed(asked: Model, pieces: list[dict[str, Any]]) -> list[Delta]:
    async def documents() -> AsyncGenerator[Any, None]:
        for piece in pieces:
            yield [{"choices": [{"delta": piece}]}]
        yield [{"choices": [{"delta": {}, "finish_reason": "stop"}]}]

    return [delta async for delta in read_stream(attempt_at(asked), documents())]


@pytest.mark.parametrize(("asked", "pieces", "expected"), FORMS)
async def test_what_an_upstream_wants_back_comes_back_as_it_was(
    asked: Model, pieces: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    deltas = await streamed(asked, pieces)
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    thinking = [delta.thinking for delta in deltas if isinstance(delta, ThinkingDelta)]
    assert reasoning == "think hard"
    assert "".join(piece.text for piece in thinking) in ("", reasoning)
    first_text = next(place for place, delta in enumerate(deltas) if isinstance(delta, TextDelta))
    assert not any(isinstance(delta, ThinkingDelta) for delta in deltas[first_text:])
    parts = (*(ContentPart(other=piece) for piece in thinking), ContentPart("so"))
    assert chat_messages(asked, [Message(MessageRole.ASSISTANT, parts)]) == [{"role": "assistant"} | expected]


@pytest.mark.parametrize(
    ("asked", "message", "expected"),
    [
        (
            DATABRICKS,
            {"content": [SUMMARY, {"type": "text", "text": "so"}]},
            {"content": [SUMMARY, {"type": "text", "text": "so"}]},
        ),
        (
            DATABRICKS,
            {"content": [THINKING, REDACTED, {"type": "text", "text": "so"}]},
            {"content": [THINKING, REDACTED, {"type": "text", "text": "so"}]},
        ),
        (
            ANTHROPIC,
            {"content": "so", "reasoning_content": "think hard", "thinking_blocks": [THINKING, REDACTED]},
            {"content": "so", "thinking_blocks": [THINKING, REDACTED]},
        ),
        (
            OPENROUTER,
            {"content": "so", "reasoning": "think hard", "reasoning_details": [ROUTED, ENCRYPTED]},
            {"content": "so", "reasoning_details": [ROUTED, ENCRYPTED]},
        ),
        (
            ANTHROPIC,
            {"content": "so", "provider_specific_fields": {"reasoning_details": [ROUTED]}},
            {"content": "so", "reasoning_details": [ROUTED]},
        ),
        (
            DEEPSEEK,
            {"content": "so", "reasoning_content": "think hard"},
            {"content": "so", "reasoning_content": "think hard"},
        ),
    ],
)
def test_a_whole_answer_gives_the_same(asked: Model, message: dict[str, Any], expected: dict[str, Any]) -> None:
    answer = read_whole(attempt_at(asked), {"choices": [{"message": message, "finish_reason": "stop"}]})
    parts = (*(ContentPart(other=piece) for piece in answer.thinking), ContentPart(answer.text))
    assert chat_messages(asked, [Message(MessageRole.ASSISTANT, parts)]) == [{"role": "assistant"} | expected]


async def test_thinking_between_tool_calls_is_told_before_them() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    deltas = await streamed(OPENROUTER, [{"reasoning_content": "why"}, {"tool_calls": [call]}])
    kinds = [type(delta) for delta in deltas if isinstance(delta, ThinkingDelta | ToolCallDelta | ReasoningDelta)]
    assert kinds == [ReasoningDelta, ThinkingDelta, ToolCallDelta]


async def test_half_characters_in_thinking_are_joined_or_replaced() -> None:
    pieces: list[dict[str, Any]] = [
        {"content": [{"type": "thinking", "thinking": "hi \ud83d"}]},
        {"content": [{"type": "thinking", "thinking": "\ude00 \ud83d", "signature": "sig"}]},
        {"content": "so"},
    ]
    (thinking,) = [delta.thinking for delta in await streamed(DATABRICKS, pieces) if isinstance(delta, ThinkingDelta)]
    assert thinking.text == "hi 😀 \ufffd"
    assert json.loads(thinking.provider_state)["value"]["thinking"] == "hi 😀 \ufffd"
    thinking.provider_state.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "thinking", "summary", "signature", "data", "index", "id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BLOCKS = st.lists(
    st.dictionaries(st.sampled_from(["text", "thinking", "summary", "signature", "index", "id"]), JSON, max_size=4)
    | JSON,
    max_size=3,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["content", "thinking_blocks", "reasoning_details", "provider_specific_fields"]),
            BLOCKS.map(lambda blocks: [{"type": "thinking"} | b if isinstance(b, dict) else b for b in blocks]),
        ),
        max_size=4,
    )
)
async def test_no_form_of_thinking_is_a_failure_of_ours(pieces: list[dict[str, Any]]) -> None:
    # Content that is not made of objects is no answer.
    clean: list[dict[str, Any]] = [
        {**piece, "content": [block for block in piece.get("content", []) if isinstance(block, dict)]}
        for piece in pieces
    ]
    for delta in await streamed(OPENROUTER, [*clean, SO]):
        if isinstance(delta, ThinkingDelta):
            part = ContentPart(other=delta.thinking)
            chat_messages(OPENROUTER, [Message(MessageRole.ASSISTANT, (part, ContentPart("so")))])
