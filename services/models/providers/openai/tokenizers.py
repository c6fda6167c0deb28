"""OpenAI's tokenizers, from the files that litellm carries: nothing is downloaded."""

import asyncio
import functools
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tiktoken

from services.models.domain.conversation import Message, MessageRole
from services.models.domain.model import Model, Provider
from services.models.providers.base import TokenCount

# The names of their files, by which tiktoken finds them.
_FILES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}
# What these add to the text of messages is published. Reasoning models add more, and do not say what.
_PUBLISHED = re.compile(r"(?:gpt-4o|gpt-4|gpt-3\.5-turbo)(?:-mini)?(?:-\d[\d-]*)?\Z")
_PER_MESSAGE = 3
_PER_ANSWER = 3
# No token goes over such a place.
_LINE_ENDS = re.compile(r"(?<=\n)(?=[^\s/])")
# Time grows with the square of a text in which tokenizers find no place to cut, and their stack is not endless.
_LONGEST_PIECE = 100_000
_LONGEST_TEXT = 2_000_000
# Others are told an estimate rather than kept waiting.
_MOST_WAITING = 8


class Tokenizers:
    """Counts the tokens of conversations for OpenAI's models, in a thread of its own.

    The first count of a kind of models loads their tokenizer: some 80 MB, and a second or two.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._waiting = 0

    async def count(self, model: Model, messages: Sequence[Message]) -> TokenCount | None:
        """Return how many tokens a conversation of text has; None where no tokenizer is at hand, or it has other work.

        The count is exact for models of which it is known what they add to the text.
        """
        name = _tokenizer_of(model)
        texts = [message.text for message in messages]
        if not name or self._waiting >= _MOST_WAITING or sum(map(len, texts)) > _LONGEST_TEXT:
            return None
        if not all(map(_is_text, messages)):
            return None
        self._waiting += 1
        try:
            counting = functools.partial(_count, name, [message.role.value for message in messages], texts)
            tokens = await asyncio.get_running_loop().run_in_executor(self._thread, counting)
        finally:
            self._waiting -= 1
        if tokens is None:
            return None
        return TokenCount(tokens, exact=_PUBLISHED.match(model.spec.upstream_name) is not None)

    def close(self) -> None:
        """Give up the work that has not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _tokenizer_of(model: Model) -> str:
    # Servers at other addresses may be anything that took a known name.
    if model.spec.provider is not Provider.OPENAI or model.spec.base_url or model.spec.deployments:
        return ""
    try:
        name = tiktoken.encoding_name_for_model(model.spec.upstream_name)
    except KeyError:
        return ""
    return name if name in _FILES else ""


def _is_text(message: Message) -> bool:
    if message.tool_calls or message.role is MessageRole.TOOL:
        return False
    return all(part.other is None for part in message.content)


def _count(name: str, roles: Sequence[str], texts: Sequence[str]) -> int | None:
    tokenizer = _load(name)
    if tokenizer is None:
        return None
    tokens = _PER_ANSWER
    for text in (*roles, *texts):
        for piece in _pieces(text):
            if len(piece) > _LONGEST_PIECE:
                return None
            tokens += len(tokenizer.encode_ordinary(piece))
    return tokens + _PER_MESSAGE * len(texts)


def _pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces that have as many tokens as the whole."""
    if len(text) <= _LONGEST_PIECE:
        yield text
        return
    piece = ""
    for line in _LINE_ENDS.split(text):
        if piece and len(piece) + len(line) > _LONGEST_PIECE:
            yield piece
            piece = ""
        piece += line
    yield piece


@functools.cache
def _load(name: str) -> tiktoken.Encoding | None:
    litellm = importlib.util.find_spec("litellm")
    if litellm is None or not litellm.origin:
        return None
    directory = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
    # Without its file, tiktoken would fetch it.
    if not (directory / _FILES[name]).is_file():
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(directory)
    return tiktoken.get_encoding(name)
