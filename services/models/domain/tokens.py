"""How many tokens texts have."""

import math
import string
from collections.abc import Sequence

from services.models.domain.conversation import Audio, ContentPart, Document, Image, Message, Thinking
from services.models.domain.media import PDF, document_type

_IMAGE_TOKENS = 1000
_SMALL_IMAGE_TOKENS = 85
_PDF_PAGE_TOKENS = 2000
_AUDIO_BYTES_PER_TOKEN = 1000

_INDENTATION = " " * 4
_LETTERS = (string.ascii_letters + " ").encode()
_DIGITS = string.digits.encode()


def estimate_tokens(text: str) -> int:
    """Return about how many tokens `text` has, by the kinds of its characters and not by its words.

    Prose, code and tables come within a quarter of what OpenAI's tokenizers count; other scripts within a factor of
    three, as those differ among themselves by that much. Random letters, as of keys, are up to three times as many.
    """
    ascii_bytes = text.encode("ascii", "ignore")
    signs = ascii_bytes.translate(None, _LETTERS)
    marks = len(signs.translate(None, _DIGITS))
    digits = len(signs) - marks
    indentation = text.count(_INDENTATION) * len(_INDENTATION)
    letters = len(ascii_bytes) - len(signs) - indentation
    tokens = letters / 4.9 + indentation / 16 + digits / 2.2 + marks * 0.62
    if len(ascii_bytes) < len(text):
        others = len(text) - len(ascii_bytes)
        other_bytes = len(text.encode("utf-8", "surrogatepass")) - len(ascii_bytes)
        # Cyrillic and Arabic letters have two bytes each, Chinese signs three.
        wide = min(others, other_bytes - 2 * others)
        tokens += wide * 0.85 + (others - wide) * 0.4
    return math.ceil(tokens)


def estimate_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return about how many tokens a conversation has, with the few that every message adds.

    Rules of thumb for what is not text, rather too low than too high: 1,000 tokens for an image (85 with the detail
    "low"), 2,000 for a page of a PDF, one for 1,000 bytes of audio.
    """
    return sum(
        4
        + estimate_tokens(message.text)
        + sum(_estimate_other(part) for part in message.content if part.other is not None)
        + sum(estimate_tokens(call.name) + estimate_tokens(call.arguments_json) for call in message.tool_calls)
        for message in messages
    )


def least_tokens(text: str) -> int:
    """Return how many tokens `text` has at least, whatever the tokenizer.

    The best of them put six bytes of ASCII prose into one, eight of other scripts, and indentation into next to none.
    """
    spaces = text.count(_INDENTATION) * len(_INDENTATION)
    if text.isascii():
        return (len(text) - spaces) // 6
    ascii_length = len(text.encode("ascii", "ignore"))
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - ascii_length
    return (ascii_length - spaces) // 6 + other_bytes // 8


def _estimate_other(part: ContentPart) -> int:
    match part.other:
        case Image():
            return _SMALL_IMAGE_TOKENS if part.other.detail == "low" else _IMAGE_TOKENS
        case Document(data, media_type, file_name):
            if (media_type or document_type(data)) == PDF:
                return _pages(data) * _PDF_PAGE_TOKENS
            return estimate_tokens(file_name) + estimate_tokens(data.decode(errors="replace"))
        case Audio(data):
            return -(-len(data) // _AUDIO_BYTES_PER_TOKEN)
        case Thinking(text):
            return estimate_tokens(text)
        case None:
            return 0


def _pages(pdf: bytes) -> int:
    """Return how many pages a PDF has. Those of compressed directories are not seen; it has one at least."""
    pages = sum(pdf.count(mark) for mark in (b"/Type/Page", b"/Type /Page"))
    directories = sum(pdf.count(mark) for mark in (b"/Type/Pages", b"/Type /Pages"))
    return max(1, pages - directories)
