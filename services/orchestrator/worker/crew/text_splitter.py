"""Long texts in parts that can be embedded whole."""

from collections.abc import Iterator

MAX_PART_BYTES = 8_000
"""Common embedding models take 8191 tokens, and no token is shorter than a byte."""

_MARKS = (b"\n\n", b"\n", b". ", b" ")


def split_text(text: str, max_bytes: int = MAX_PART_BYTES) -> Iterator[str]:
    """Yield the parts of a text, of at most `max_bytes` (4 or more) bytes of UTF-8; joined, they are the text again.

    A part ends with a paragraph, else a line, else a sentence, else a word, where its latter half has such an end.
    Lone surrogates, which have no UTF-8, become question marks.
    """
    data = text.encode(errors="replace")
    start = 0
    while start < len(data):
        part = data[start : start + max_bytes]
        if start + len(part) < len(data):
            part = part.decode(errors="ignore").encode()
            half = len(part) // 2
            ends = (part.rfind(mark, half) + len(mark) for mark in _MARKS if mark in part[half:])
            part = part[: next(ends, len(part))]
        yield part.decode()
        start += len(part)
