"""OpenAI's tokenizers, in a process of their own."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tiktoken

from services.common.reading.reader import BoundedReader, CannotRead
from services.models.domain.conversation import Message, MessageRole
from services.models.domain.model import Model, Provider
from services.models.providers.base import TokenCount

_PROGRAM = Path(__file__).with_name("tokenizer_process.py")
# Of processor time, the loading of a tokenizer included: some ten times what the longest prose takes.
_CPU_SECONDS = 5
# For a count and those of other groups before it.
_LONGEST_SECONDS = 15.0
_TOKENIZERS = frozenset({"o200k_base", "cl100k_base"})
# What these add to the text of messages is published. Reasoning models add more, and do not say what.
_PUBLISHED = re.compile(r"(?:gpt-4o|gpt-4|gpt-3\.5-turbo)(?:-mini)?(?:-\d[\d-]*)?\Z")
_PER_MESSAGE = 3
_PER_ANSWER = 3
_LONGEST_TEXT = 2_000_000
# Others are told an estimate rather than kept waiting.
_MOST_WAITING = 32
_MOST_WAITING_OF_GROUP = 4


class Tokenizers:
    """Counts the tokens of conversations for OpenAI's models, for all groups in turn.

    The first count of a kind of models loads their tokenizer into the process: some 80 MB.
    """

    def __init__(self) -> None:
        self._reader = BoundedReader(_PROGRAM, cpu_seconds=_CPU_SECONDS, longest_seconds=_LONGEST_SECONDS)
        self._waiting = Counter[str]()

    async def count(self, group_id: str, model: Model, messages: Sequence[Message]) -> TokenCount | None:
        """Return how many tokens a conversation of text has; None where no tokenizer is at hand, or it has other work.

        The count is exact for models of which it is known what they add to the text.
        """
        name = _tokenizer_of(model)
        if not name or not all(map(_is_text, messages)):
            return None
        texts = [text for message in messages for text in (message.role.value, message.text)]
        if sum(map(len, texts)) > _LONGEST_TEXT or self._is_busy(group_id):
            return None
        self._waiting[group_id] += 1
        try:
            tokens = await self._count(group_id, name, texts)
        finally:
            self._waiting[group_id] -= 1
            self._waiting += Counter()  # without those that wait for nothing
        if tokens is None:
            return None
        whole = tokens + _PER_MESSAGE * len(messages) + _PER_ANSWER
        return TokenCount(whole, exact=_PUBLISHED.match(model.spec.upstream_name) is not None)

    async def close(self) -> None:
        """End the process, and with it what is being counted."""
        await self._reader.close()

    def _is_busy(self, group_id: str) -> bool:
        return self._waiting[group_id] >= _MOST_WAITING_OF_GROUP or self._waiting.total() >= _MOST_WAITING

    async def _count(self, group_id: str, name: str, texts: Sequence[str]) -> int | None:
        encoded = [text.encode(errors="replace") for text in texts]
        try:
            found = await self._reader.read(group_id, name, b"".join(encoded), sizes=[len(text) for text in encoded])
        except CannotRead:
            return None
        tokens: int = found["tokens"]
        return tokens


def _tokenizer_of(model: Model) -> str:
    # Servers at other addresses may be anything that took a known name.
    if model.spec.provider is not Provider.OPENAI or model.spec.base_url or model.spec.deployments:
        return ""
    try:
        name = tiktoken.encoding_name_for_model(model.spec.upstream_name)
    except KeyError:
        return ""
    return name if name in _TOKENIZERS else ""


def _is_text(message: Message) -> bool:
    if message.tool_calls or message.role is MessageRole.TOOL:
        return False
    return all(part.other is None for part in message.content)
