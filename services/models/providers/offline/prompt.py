"""What a conversation asks of `offline/extract`: the text to work on, apart from the words about it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.models.domain.conversation import Message, MessageRole

# The words CrewAI puts around a task.
_TASK = re.compile(r"^\s*Current Task:\s*")
_CRITERIA = re.compile(r"This is the expected criteria for your final answer:")
_CRITERIA_END = re.compile(r"you MUST return the actual complete content as the final answer, not a summary\.")
_CONTEXT = re.compile(r"This is the context you're working with:")
_MEMORIES = re.compile(r"\n\n# Memories from past conversations:.*", re.DOTALL)
_CLOSING = re.compile(r"Provide your complete response:\s{0,20}$")
_BETWEEN_CONTEXTS = re.compile(r"\n-{10}\n")
# "Summarise this in two sentences: ..." - an order in front of the text it is about.
_ORDER = re.compile(
    r"^(?:please\s+)?(?:can you\s+)?"
    r"(?:summari[sz]e|condense|shorten|extract|list|pull|pick|select|find|identify|give|write|outline|tell)\b"
    r"[^\n]{0,300}?(?::|[.?!](?=\s|$)|\n)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The parts of a conversation."""

    material: tuple[str, ...]
    """Empty when the conversation holds nothing but instructions."""
    task: str
    """What is asked of the material."""
    criteria: str
    """What the answer has to be like; may be empty."""


def read_prompt(messages: Sequence[Message]) -> Prompt:
    """Divide a conversation into material, task and criteria.

    Material is what is marked as such, wherever it stands. In a conversation without marks it is the context of a task
    that CrewAI has worded (the task itself is an instruction, all of it), or else the users' own text less the order at
    its head.
    """
    marked = [part.text for message in messages for part in message.content if part.material]
    said = "\n\n".join(
        "".join("\n" if part.material else part.text for part in message.content)
        for message in messages
        if message.role is MessageRole.USER
    )
    task, criteria, context = _parts(said)
    if marked:
        return Prompt(tuple(text for text in marked if text.strip()), task, criteria)
    if context or _CRITERIA.search(said):
        return Prompt(tuple(_BETWEEN_CONTEXTS.split(context)) if context else (), task, criteria)
    order, text = _split_order(task)
    return Prompt((text,) if text else (), order, criteria)


def _parts(text: str) -> tuple[str, str, str]:
    """Return task, criteria and context of a text as CrewAI words it; all of a plain text is its task."""
    text = _CLOSING.sub("", _MEMORIES.sub("", text))
    text = _TASK.sub("", text)
    text, _, context = _split_once(_CONTEXT, text)
    task, _, criteria = _split_once(_CRITERIA, text)
    criteria, _, _ = _split_once(_CRITERIA_END, criteria)
    return task.strip(), criteria.strip(), context.strip()


def _split_once(pattern: re.Pattern[str], text: str) -> tuple[str, str, str]:
    match = pattern.search(text)
    return (text[: match.start()], match.group(), text[match.end() :]) if match else (text, "", "")


def _split_order(text: str) -> tuple[str, str]:
    """Return the order at the head of a text, and the rest it is about, which is empty when there is only an order."""
    head, _, rest = text.partition("\n\n")
    if rest.strip():
        return head, rest
    order = _ORDER.match(text)
    if order:
        return order.group().strip(), text[order.end() :]
    return "", text
