"""Text and reasoning in the content of a message, a string or the blocks of some dialect."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.models.providers.openai.response_errors import BadResponse

_REASONING_FIELDS = ("reasoning_content", "reasoning")
_REASONING_BLOCKS = frozenset({"reasoning", "thinking", "summary_text", "reasoning.text", "reasoning.summary"})


def read_content(content: Any) -> tuple[str, str]:
    """Return text and reasoning of a message's content.

    Besides a string it may be a list of blocks, as gpt-oss sends it: reasoning in summaries (signed or not), then text.

    Raises:
        BadResponse: it is neither.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise BadResponse("its content is neither text nor blocks")
    text: list[str] = []
    reasoning: list[str] = []
    for block in content:
        if isinstance(block, str):
            text.append(block)
        elif block is None:
            continue
        elif not isinstance(block, dict):
            raise BadResponse("a block of its content is not an object")
        elif _string(block.get("type")) in _REASONING_BLOCKS:
            reasoning.append(_reasoning_of(block))
        elif isinstance(block.get("text"), str):
            text.append(block["text"])
    return "".join(text), "".join(reasoning)


def read_reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning that a message has beside its content."""
    for name in _REASONING_FIELDS:
        if said := _string(message.get(name)):
            return said
    details = message.get("reasoning_details")
    if not isinstance(details, Sequence) or isinstance(details, str):
        return ""
    return "".join(_reasoning_of(block) for block in details if isinstance(block, dict))


def _reasoning_of(block: Mapping[str, Any]) -> str:
    for parts in (block.get("summary"), block.get("thinking")):
        if isinstance(parts, list):
            return "".join(_string(part.get("text")) if isinstance(part, dict) else _string(part) for part in parts)
    return next(
        (value for name in ("thinking", "text", "content", "summary") if (value := _string(block.get(name)))), ""
    )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
