"""Parts of messages: what is checked of them, what upstreams get, and what they count."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition, InvalidArgument
from services.models.domain.conversation import (
    Audio,
    ContentPart,
    Document,
    Image,
    Message,
    MessageRole,
    Thinking,
    ToolCall,
)
from services.models.domain.model import Capabilities, Model, ModelSpec, Provider
from services.models.domain.thinking import ThinkingForm, ThinkingState
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.providers.openai.messages import chat_messages
from services.models.usecases.part_checks import PartChecks
from tests.support.media_samples import JPEG, MP3, PDF, PNG, WAV

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Capabilities(chat=True, tools=True, images=True, documents=True, audio=True)
URL = "https://example.com/plan.png"


def model(name: str = "openai/m", provider: Provider = Provider.OPENAI, can: Capabilities = ALL) -> Model:
    return Model(
        "1", "", ModelSpec(name=name, provider=provider, capabilities=can), enabled=True, created_at=NOW, updated_at=NOW
    )


OPENAI = model()
CLAUDE = model("databricks/databricks-claude-sonnet", Provider.DATABRICKS)
ANTHROPIC = model("anthropic/claude-sonnet", Provider.LITELLM)


def user(*parts: ContentPart) -> Message:
    return Message(MessageRole.USER, parts)


def image(data: bytes = PNG, **fields: Any) -> ContentPart:
    return ContentPart(other=Image(data, **fields))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def thought(form: ThinkingForm, value: Any, text: str = "why", by: Model = OPENAI) -> ContentPart:
    return ContentPart(other=Thinking(text, ThinkingState(by.name, form, value).to_text()))


def test_a_message_of_text_is_a_string_as_every_server_takes_it() -> None:
    parts = (ContentPart("See: "), ContentPart("it", material=True), ContentPart("", cache_mark=False))
    assert chat_messages(OPENAI, [user(*parts)]) == [{"role": "user", "content": "See: it"}]


def test_parts_become_blocks_in_their_order() -> None:
    parts = (
        ContentPart("Compare "),
        ContentPart("these:"),
        image(detail="low"),
        ContentPart(other=Image(url=URL)),
        ContentPart(other=Document(PDF, file_name="a.pdf")),
        ContentPart(other=Document(PDF, "application/pdf")),
        ContentPart(other=Document("Grüße".encode(), "text/csv", "b.csv")),
        ContentPart(other=Audio(WAV)),
        ContentPart(other=Audio(MP3, "mp3")),
        ContentPart("Briefly."),
    )
    pdf = f"data:application/pdf;base64,{encoded(PDF)}"
    assert chat_messages(OPENAI, [user(*parts)])[0]["content"] == [
        {"type": "text", "text": "Compare these:"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PNG)}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": pdf}},
        {"type": "file", "file": {"filename": "document", "file_data": pdf}},
        {"type": "text", "text": "\n\nb.csv:\nGrüße\n"},
        {"type": "input_audio", "input_audio": {"data": encoded(WAV), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": encoded(MP3), "format": "mp3"}},
        {"type": "text", "text": "Briefly."},
    ]


def test_marks_end_a_block_for_claude_and_are_not_sent_to_others() -> None:
    messages = [
        user(ContentPart("a"), ContentPart("b", cache_mark=True), ContentPart("c"), ContentPart("d", material=True)),
        user(ContentPart(other=Image(PNG), cache_mark=True)),
    ]
    marked = {"cache_control": {"type": "ephemeral"}}
    first, second = chat_messages(CLAUDE, messages)
    assert first["content"] == [{"type": "text", "text": "ab"} | marked, {"type": "text", "text": "cd"}]
    assert second["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in json.dumps(chat_messages(OPENAI, messages))
    assert chat_messages(OPENAI, messages)[0]["content"] == "abcd"


def test_what_a_tool_shows_is_seen_by_every_model() -> None:
    call = Message(MessageRole.ASSISTANT, tool_calls=(ToolCall("1", "look", "{}"), ToolCall("2", "look", "{}")))
    shown = Message(MessageRole.TOOL, (image(),), tool_call_id="1")
    said = Message(MessageRole.TOOL, (ContentPart("a cat"), image(JPEG)), tool_call_id="2")
    claude = chat_messages(ANTHROPIC, [call, shown, said])
    assert [message["role"] for message in claude] == ["assistant", "tool", "tool"]
    assert [block["type"] for block in claude[2]["content"]] == ["text", "image_url"]
    for asked, rest in ((OPENAI, []), (CLAUDE, []), (OPENAI, [user(ContentPart("go on"))])):
        others = chat_messages(asked, [call, shown, said, *rest])
        assert [message["role"] for message in others][:4] == ["assistant", "tool", "tool", "user"]
        assert others[1]["content"] == "The message after the tools' results shows it."
        assert others[2]["content"] == "a cat"
        assert [block["type"] for block in others[3]["content"]] == ["text", "image_url", "text", "image_url"]
        assert others[3]["content"][2]["text"] == "Result of the tool call 2:"


BLOCK = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why", "signature": "s"}]}
CALLS = (ToolCall("1", "f", "{}"),)


def test_thinking_goes_back_in_the_form_it_came_before_text_and_calls() -> None:
    said = (ContentPart("so"), thought(ThinkingForm.CONTENT, BLOCK, by=CLAUDE))
    (body,) = chat_messages(CLAUDE, [Message(MessageRole.ASSISTANT, said, CALLS)])
    assert body["content"] == [BLOCK, {"type": "text", "text": "so"}]
    assert [call["id"] for call in body["tool_calls"]] == ["1"]
    second = BLOCK | {"summary": []}
    only = (thought(ThinkingForm.CONTENT, BLOCK, by=CLAUDE), thought(ThinkingForm.CONTENT, second, by=CLAUDE))
    (body,) = chat_messages(CLAUDE, [Message(MessageRole.ASSISTANT, only, CALLS)])
    assert body["content"] == [BLOCK, second]


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (
            ThinkingForm.BLOCKS,
            {"type": "thinking", "signature": "s"},
            {"thinking_blocks": [{"type": "thinking", "signature": "s"}] * 2},
        ),
        (
            ThinkingForm.DETAILS,
            {"type": "reasoning.encrypted"},
            {"reasoning_details": [{"type": "reasoning.encrypted"}] * 2},
        ),
        (ThinkingForm.SIGNATURES, "s", {"provider_specific_fields": {"thought_signatures": ["s", "s"]}}),
        (ThinkingForm.REASONING_CONTENT, None, {"reasoning_content": "whywhy"}),
        (ThinkingForm.REASONING, None, {"reasoning": "whywhy"}),
    ],
)
def test_thinking_beside_the_content_stays_beside_it(form: ThinkingForm, value: Any, expected: dict[str, Any]) -> None:
    parts = (thought(form, value), thought(form, value), ContentPart("so"))
    (body,) = chat_messages(OPENAI, [Message(MessageRole.ASSISTANT, parts)])
    assert body == {"role": "assistant", "content": "so"} | expected


def test_another_model_does_not_get_it() -> None:
    parts = (thought(ThinkingForm.CONTENT, BLOCK, by=CLAUDE), ContentPart("so"))
    assert chat_messages(OPENAI, [Message(MessageRole.ASSISTANT, parts)]) == [{"role": "assistant", "content": "so"}]


TEXTS = st.text(max_size=5)
PARTS = st.one_of(
    st.builds(ContentPart, TEXTS, st.booleans(), cache_mark=st.booleans()),
    st.sampled_from([image(), ContentPart(other=Audio(WAV)), ContentPart(other=Document(PDF))]),
)


@given(st.lists(st.lists(PARTS, max_size=6), max_size=4), st.sampled_from([OPENAI, CLAUDE]))
def test_no_sequence_of_parts_loses_text_or_its_order(conversation: list[list[ContentPart]], asked: Model) -> None:
    sent = chat_messages(asked, [user(*parts) for parts in conversation])
    assert len(sent) == len(conversation)
    for parts, body in zip(conversation, sent, strict=True):
        kinds: dict[type, str] = {Image: "image_url", Audio: "input_audio", Document: "file"}
        expected = _runs([part.text if part.other is None else kinds[type(part.other)] for part in parts], parts)
        content = body["content"]
        if isinstance(content, str):
            assert expected == ([content] if content else [])
            continue
        found = [block["text"] if block["type"] == "text" else block["type"] for block in content]
        others = [block["type"] != "text" for block in content]
        assert _joined(found, others) == expected
        assert all(block["text"] for block in content if block["type"] == "text")


def _runs(words: list[str], parts: list[ContentPart]) -> list[str]:
    return _joined(words, [part.other is not None for part in parts])


def _joined(words: list[str], others: list[bool]) -> list[str]:
    """Join the texts that stand between other parts."""
    joined: list[str] = []
    open_text = False
    for word, other in zip(words, others, strict=True):
        if other or not open_text:
            joined.append(word)
        else:
            joined[-1] += word
        open_text = not other
    return [word for word in joined if word]


def checked(*messages: Message, asked: Model = OPENAI, most: int = 100_000) -> None:
    PartChecks(most).check(asked, messages)


def field(call: Callable[[], None]) -> str:
    with pytest.raises(InvalidArgument) as caught:
        call()
    (violation,) = caught.value.violations
    return violation.field.removeprefix("completion.messages[0].content[0].")


@pytest.mark.parametrize(
    ("part", "capability"),
    [
        (image(), "images"),
        (ContentPart(other=Document(PDF)), "documents"),
        (ContentPart(other=Document(b"text")), "documents"),
        (ContentPart(other=Audio(WAV)), "audio"),
    ],
)
def test_a_model_is_sent_only_what_it_can_take(part: ContentPart, capability: str) -> None:
    checked(user(part))
    with pytest.raises(FailedPrecondition) as caught:
        checked(user(part), asked=model(can=Capabilities(chat=True)))
    assert (caught.value.reason, caught.value.metadata["capability"]) == ("MODEL_LACKS_CAPABILITY", capability)


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (image(b"no image"), "image.data"),
        (image(PNG, media_type="image/jpeg"), "image.media_type"),
        (image(PNG + b"\0" * 100_000), "image.data"),
        (ContentPart(other=Image(url="https://10.0.0.1/a.png")), "image.url"),
        (ContentPart(other=Image(url="http://example.com/a.png")), "image.url"),
        (ContentPart(other=Document(PNG)), "document.data"),
        (ContentPart(other=Document(b"text", "application/pdf")), "document.media_type"),
        (ContentPart(other=Document(b"%PDF-\xff", "text/plain")), "document.media_type"),
        (ContentPart(other=Audio(PNG)), "audio.data"),
        (ContentPart(other=Audio(WAV, "mp3")), "audio.format"),
        (ContentPart(" ", cache_mark=True), "cache_mark"),
        (thought(ThinkingForm.CONTENT, BLOCK), "thinking"),
    ],
)
def test_a_part_that_cannot_be_sent_is_named(part: ContentPart, path: str) -> None:
    assert field(lambda: checked(user(part))) == path


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[" * 100_000,
        "{}",
        '"text"',
        '{"model":"openai/m","form":"content","value":{"type":"image_url","image_url":{"url":"https://10.0.0.1"}}}',
        '{"model":"openai/m","form":"thinking_blocks","value":{"type":"text"}}',
        '{"model":"openai/m","form":"messages","value":[]}',
        '{"model":"openai/m","form":"reasoning","value":"text"}',
        '{"model":"openai/m","form":"thought_signatures","value":{}}',
        '{"model":"openai/m","form":"content","value":{"type":[]}}',
        '{"form":"reasoning"}',
    ],
)
def test_thinking_is_taken_only_in_the_forms_it_was_given_in(state: str) -> None:
    part = ContentPart(other=Thinking("why", state))
    message = Message(MessageRole.ASSISTANT, (part,), CALLS)
    assert field(lambda: checked(message)) == "thinking.provider_state"


def test_thinking_alone_is_no_message() -> None:
    alone = Message(MessageRole.ASSISTANT, (thought(ThinkingForm.CONTENT, BLOCK),))
    with pytest.raises(InvalidArgument, match="besides the thinking"):
        checked(alone)
    checked(Message(MessageRole.ASSISTANT, alone.content, CALLS))


@pytest.mark.parametrize("role", [MessageRole.SYSTEM, MessageRole.ASSISTANT])
def test_only_users_and_tools_show_something(role: MessageRole) -> None:
    assert field(lambda: checked(Message(role, (image(),)))) == "image"
    checked(Message(MessageRole.TOOL, (image(),), tool_call_id="1"))
    assert field(lambda: checked(Message(MessageRole.TOOL, (ContentPart(other=Audio(WAV)),)))) == "audio"


def test_a_conversation_has_four_marks_at_most() -> None:
    marked = ContentPart("a", cache_mark=True)
    checked(user(*[marked] * 4))
    with pytest.raises(InvalidArgument) as caught:
        checked(user(*[marked] * 4), user(marked))
    assert caught.value.violations[0].field == "completion.messages[1].content[0].cache_mark"


@pytest.mark.parametrize(
    ("name", "provider", "fetches"),
    [
        ("openai/m", Provider.OPENAI, True),
        ("databricks/m", Provider.DATABRICKS, True),
        ("anthropic/m", Provider.LITELLM, True),
        ("gemini/m", Provider.LITELLM, False),
        ("bedrock/m", Provider.LITELLM, False),
    ],
)
def test_an_address_is_sent_only_where_the_upstream_fetches_it(name: str, provider: Provider, fetches: bool) -> None:
    spec = ModelSpec(name="own/name", upstream_model=name, provider=provider, capabilities=ALL)
    asked = Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)
    message = user(ContentPart(other=Image(url=URL)))
    if fetches:
        checked(message, asked=asked)
    else:
        assert field(lambda: checked(message, asked=asked)) == "image.url"


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (image(), 1000),
        (image(detail="low"), 85),
        (ContentPart(other=Image(url=URL)), 1000),
        (ContentPart(other=Document(PDF)), 4000),
        (ContentPart(other=Document(b"%PDF-1.7 compressed")), 2000),
        (ContentPart(other=Document(b"four" * 10, file_name="name")), 10),
        (ContentPart(other=Audio(WAV + b"\0" * 2000)), 3),
        (ContentPart(other=Thinking("four" * 10, "state")), 9),
    ],
)
def test_what_is_not_text_counts_by_a_rule_of_thumb(part: ContentPart, tokens: int) -> None:
    plain = estimate_prompt_tokens([user(ContentPart("Hello"))])
    assert plain == 4 + estimate_tokens("Hello")
    assert estimate_prompt_tokens([user(ContentPart("Hello"), part)]) == plain + tokens
