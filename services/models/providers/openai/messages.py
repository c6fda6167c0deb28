"""Conversations as messages of OpenAI's HTTP interface and its dialects."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

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
from services.models.domain.media import PDF, audio_format, document_type, image_type
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.thinking import PLAIN_FORMS, ThinkingForm, ThinkingState

_Block = dict[str, Any]

_UNFIT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_EPHEMERAL = {"type": "ephemeral"}
_SHOWN_LATER = "The message after the tools' results shows it."


def chat_messages(model: Model, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a conversation as the model's upstream takes it.

    A message of nothing but text has a string as content, as every server takes it; others have a list of blocks.
    """
    claude = _is_claude(model.spec)
    shows_results = claude and model.spec.provider is Provider.LITELLM
    sent: list[dict[str, Any]] = []
    shown: list[_Block] = []
    for message in messages:
        if message.role is not MessageRole.TOOL and shown:
            sent.append({"role": MessageRole.USER.value, "content": shown})
            shown = []
        if _is_plain(message):
            sent.append({"role": message.role.value, "content": message.text})
            continue
        blocks = list(_blocks(message.content, marks=claude))
        if message.role is MessageRole.TOOL and not shows_results:
            # OpenAI's interface has only text in results of tools, Anthropic's more: others are shown it by the user.
            others = [block for block in blocks if block["type"] != "text"]
            if others:
                blocks = [block for block in blocks if block["type"] == "text"] or [_text_block(_SHOWN_LATER)]
                shown += [_text_block(f"Result of the tool call {message.tool_call_id}:"), *others]
        sent.append(_message(model, message, blocks))
    if shown:
        sent.append({"role": MessageRole.USER.value, "content": shown})
    return sent


def _is_plain(message: Message) -> bool:
    """Whether a message is nothing but text that somebody says, as most are."""
    if message.tool_calls or message.role is MessageRole.TOOL:
        return False
    return all(part.other is None and not part.cache_mark for part in message.content)


def _message(model: Model, message: Message, blocks: list[_Block]) -> dict[str, Any]:
    plain = all(block.keys() == {"type", "text"} for block in blocks)
    text = "".join(block["text"] for block in blocks) if plain else ""
    body: dict[str, Any] = {"role": message.role.value, "content": text if plain else blocks}
    if message.tool_calls:
        body["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        body["content"] = body["content"] or None
    if message.role is MessageRole.TOOL:
        body["tool_call_id"] = message.tool_call_id
    for part in message.content:
        if isinstance(part.other, Thinking):
            _add_thinking(body, model, part.other)
    return body


def _add_thinking(body: dict[str, Any], model: Model, thinking: Thinking) -> None:
    state = ThinkingState.from_text(thinking.provider_state)
    if state.model != model.name:
        return
    if state.form is ThinkingForm.CONTENT:
        # Upstreams refuse thinking that follows the text.
        content = body["content"]
        said = [_text_block(content)] if isinstance(content, str) and content else content or []
        first = next((place for place, block in enumerate(said) if block["type"] == "text"), len(said))
        body["content"] = [*said[:first], state.value, *said[first:]]
    elif state.form is ThinkingForm.SIGNATURES:
        body.setdefault("provider_specific_fields", {}).setdefault(state.form.value, []).append(state.value)
    elif state.form in PLAIN_FORMS:
        body[state.form.value] = body.get(state.form.value, "") + thinking.text
    else:
        body.setdefault(state.form.value, []).append(state.value)


def _blocks(parts: Sequence[ContentPart], *, marks: bool) -> Iterator[_Block]:
    """Yield the blocks of a message's content. Texts that stand together are one block, which a mark ends."""
    texts: list[str] = []
    for part in parts:
        mark = {"cache_control": _EPHEMERAL} if part.cache_mark and marks else {}
        block = _other_block(part)
        if block is not None:
            if texts:
                yield _text_block("".join(texts))
                texts = []
            yield block | mark
            continue
        if part.text:
            texts.append(part.text)
        if mark and texts:
            yield _text_block("".join(texts)) | mark
            texts = []
    if texts:
        yield _text_block("".join(texts))


def _other_block(part: ContentPart) -> _Block | None:
    match part.other:
        case Image(data, url, media_type, detail):
            address = url or _data_url(media_type or image_type(data), data)
            return {"type": "image_url", "image_url": {"url": address} | ({"detail": detail} if detail else {})}
        case Document():
            return _document_block(part.other)
        case Audio(data, format_):
            recording = {"data": base64.b64encode(data).decode(), "format": format_ or audio_format(data)}
            return {"type": "input_audio", "input_audio": recording}
        case _:
            return None


def _document_block(document: Document) -> _Block:
    name = document.file_name or "document"
    if (document.media_type or document_type(document.data)) == PDF:
        return {"type": "file", "file": {"filename": name, "file_data": _data_url(PDF, document.data)}}
    # As a file, upstreams take nothing but PDFs.
    return _text_block(f"\n\n{name}:\n{document.data.decode('utf-8-sig', 'replace')}\n")


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _text_block(text: str) -> _Block:
    return {"type": "text", "text": text}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": fit_name(call.name), "arguments": call.arguments_json or "{}"},
    }
    if call.provider_state:
        body["extra_content"] = json.loads(call.provider_state)
    return body


def _is_claude(spec: ModelSpec) -> bool:
    """Whether the upstream takes marks for its cache: Claude does, on Databricks and in Anthropic's interface."""
    if "claude" not in spec.upstream_name.lower():
        return False
    return spec.provider in (Provider.DATABRICKS, Provider.LITELLM)


def fit_name(name: str) -> str:
    """Return a name that upstreams take: of a schema, or of a tool that a model made up and is told about later."""
    return _UNFIT_IN_NAMES.sub("_", name)
