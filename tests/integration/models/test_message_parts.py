"""Parts of messages over gRPC: what the upstream gets, byte for byte, and what the next turn sends."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from tests.integration.models.support import (
    OFFLINE,
    SEED,
    Installation,
    ask,
    completion,
    refusal,
    serve_models,
    text,
)
from tests.integration.models.turns import answer
from tests.support.llm_script import Reply, ToolCall
from tests.support.media_samples import MP3, PDF, PNG, WAV

SEES = "openai/sees"
CLAUDE = "databricks/databricks-claude"
BLIND = "openai/blind"
URL = "https://example.com/plan.png"
MARK = {"cache_control": {"type": "ephemeral"}}
SEEING: list[dict[str, Any]] = [
    *SEED,
    {"name": SEES, "provider": "openai", "capabilities": ["chat", "tools", "images", "documents", "audio"]},
    {
        "name": CLAUDE,
        "provider": "databricks",
        "capabilities": ["chat", "tools", "json_schema", "reasoning", "images", "documents"],
    },
    {"name": BLIND, "provider": "openai", "capabilities": ["chat", "tools"]},
]


@pytest.fixture
async def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    async with serve_models(tmp_path, monkeypatch, seed=SEEING, max_part_bytes=10_000) as installation:
        yield installation


def part(**fields: Any) -> pb.ContentPart:
    return pb.ContentPart(**fields)


def user(*parts: pb.ContentPart) -> pb.Message:
    return pb.Message(role=pb.MESSAGE_ROLE_USER, content=parts)


def image(data: bytes = PNG, **fields: Any) -> pb.ContentPart:
    return part(image=pb.Image(data=data, **fields))


def url(address: str) -> pb.ContentPart:
    return part(image=pb.Image(url=address))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_every_kind_of_part_reaches_the_upstream_byte_for_byte(models: Installation, stream: bool) -> None:
    models.llm.on(Reply(text="fine"))
    parts = [
        part(text="Look: "),
        image(detail="high"),
        url(URL),
        part(document=pb.Document(data=PDF, file_name="a.pdf")),
        part(document=pb.Document(data=b"x,y\n1,2", media_type="text/csv", file_name="t.csv")),
        part(audio=pb.Audio(data=WAV)),
        part(audio=pb.Audio(data=MP3, format="mp3")),
        part(material="the end"),
    ]
    said = await answer(models, SEES, user(*parts), stream=stream)
    assert said.content[0].text == "fine"
    assert models.llm.calls[0].body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look: "},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PNG)}", "detail": "high"}},
                {"type": "image_url", "image_url": {"url": URL}},
                {
                    "type": "file",
                    "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{encoded(PDF)}"},
                },
                {"type": "text", "text": "\n\nt.csv:\nx,y\n1,2\n"},
                {"type": "input_audio", "input_audio": {"data": encoded(WAV), "format": "wav"}},
                {"type": "input_audio", "input_audio": {"data": encoded(MP3), "format": "mp3"}},
                {"type": "text", "text": "the end"},
            ],
        }
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_cache_marks_reach_claude_and_nobody_else(models: Installation, stream: bool) -> None:
    messages = [
        pb.Message(role=pb.MESSAGE_ROLE_SYSTEM, content=[part(text="Rules", cache_mark=True)]),
        user(part(document=pb.Document(data=PDF), cache_mark=True), part(text="Sum it up.")),
    ]
    await answer(models, CLAUDE, *messages, stream=stream)
    system, asked = models.llm.calls[0].body["messages"]
    assert system["content"] == [{"type": "text", "text": "Rules"} | MARK]
    assert [block.get("cache_control") for block in asked["content"]] == [MARK["cache_control"], None]
    await answer(models, SEES, *messages, stream=stream)
    system, asked = models.llm.calls[1].body["messages"]
    assert system["content"] == "Rules"
    assert not any("cache_control" in block for block in asked["content"])


@pytest.mark.parametrize("stream", [False, True])
async def test_signed_thinking_goes_back_before_the_tool_calls_it_led_to(models: Installation, stream: bool) -> None:
    signed = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look it up.", "signature": "sig=="}]}
    redacted = {"type": "redacted_thinking", "data": "hidden"}
    models.llm.on(
        Reply(content_blocks=[signed, redacted], tool_calls=[ToolCall(name="look", id="1")]),
        times=1,
    )
    models.llm.on(Reply(text="done"))
    tool = pb.ToolDefinition(name="look")
    question = text("Where?")
    turn = await answer(models, CLAUDE, question, stream=stream, tools=[tool])
    assert [piece.thinking.text for piece in turn.content] == ["I look it up.", ""]
    result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, tool_call_id="1", content=[image()])
    assert (await answer(models, CLAUDE, question, turn, result, stream=stream)).content[0].text == "done"
    _, said, shown, seen = models.llm.calls[1].body["messages"]
    assert said["content"] == [signed, redacted]
    assert said["tool_calls"][0]["id"] == shown["tool_call_id"] == "1"
    assert seen["content"][1]["image_url"]["url"] == f"data:image/png;base64,{encoded(PNG)}"
    # Another model gets the conversation without what only the first one can read.
    await answer(models, SEES, question, turn, result, stream=stream)
    _, said, shown, seen = models.llm.calls[2].body["messages"]
    assert (said["content"], said["tool_calls"][0]["id"]) == (None, "1")
    assert shown["role"] == "tool"
    assert [block["type"] for block in seen["content"]] == ["text", "image_url"]


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_in_words_goes_back_in_its_own_field(models: Installation, stream: bool) -> None:
    models.llm.on(Reply(text="4", reasoning="two and two"), times=1)
    turn = await answer(models, SEES, text("2+2?"), stream=stream)
    assert [piece.thinking.text for piece in turn.content] == ["two and two", ""]
    await answer(models, SEES, text("2+2?"), turn, text("Sure?"), stream=stream)
    said = models.llm.calls[1].body["messages"][1]
    assert said == {"role": "assistant", "content": "4", "reasoning_content": "two and two"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("given", "capability"),
    [
        (image(), "images"),
        (url(URL), "images"),
        (part(document=pb.Document(data=PDF)), "documents"),
        (part(audio=pb.Audio(data=WAV)), "audio"),
    ],
)
async def test_a_model_that_cannot_take_a_part_is_never_asked(
    models: Installation, given: pb.ContentPart, capability: str, stream: bool
) -> None:
    for model in (BLIND, OFFLINE):
        failure = await refusal(answer(models, model, user(given), stream=stream))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LACKS_CAPABILITY")
        assert failure.metadata == {"model": model, "capability": capability}
    assert models.llm.calls == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (image(b"GIF? no"), "image.data"),
        (image(media_type="image/webp"), "image.media_type"),
        (image(media_type="image/tiff"), "image.media_type"),
        (image(PNG + b"\0" * 10_000), "image.data"),
        (image(detail="closely"), "image.detail"),
        (part(image=pb.Image()), "image.source"),
        (url("https://169.254.169.254/latest"), "image.url"),
        (url("https://localhost/a.png"), "image.url"),
        (url("http://example.com/a.png"), "image.url"),
        (part(document=pb.Document(data=b"\xff\xfe")), "document.data"),
        (part(document=pb.Document(data=PDF, file_name="../a.pdf")), "document.file_name"),
        (part(document=pb.Document(data=PDF, media_type="application/zip")), "document.media_type"),
        (part(audio=pb.Audio(data=PNG)), "audio.data"),
        (part(audio=pb.Audio(data=WAV, format="midi")), "audio.format"),
        (part(text="", cache_mark=True), "cache_mark"),
        (part(), "part"),
        (part(thinking=pb.Thinking(provider_state="{}")), "thinking"),
    ],
)
async def test_a_part_that_cannot_be_sent_is_named_by_its_path(
    models: Installation, given: pb.ContentPart, field: str
) -> None:
    failure = await refusal(models.inference().Complete(ask(SEES, user(part(text="a"), given))))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == [f"completion.messages[0].content[1].{field}"]
    assert models.llm.calls == []


async def test_thinking_that_was_changed_is_refused(models: Installation) -> None:
    turn = pb.Message(
        role=pb.MESSAGE_ROLE_ASSISTANT, content=[part(thinking=pb.Thinking(provider_state='{"x')), part(text="so")]
    )
    failure = await refusal(models.inference().Complete(ask(SEES, text("a"), turn, text("b"))))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == ["completion.messages[1].content[0].thinking.provider_state"]


async def test_what_is_not_text_is_counted(models: Installation) -> None:
    messages = [user(part(text="Hello"), image(), part(document=pb.Document(data=PDF)))]
    count = await models.inference().CountTokens(pb.CountTokensRequest(model=SEES, messages=messages))
    assert count.tokens > 5000
    models.llm.on(Reply(text="fine", omit_usage=True))
    used = (await models.inference().Complete(pb.CompleteRequest(completion=completion(SEES, *messages)))).usage
    assert (used.input_tokens, used.estimated) == (count.tokens, True)
