"""Long texts in pieces that can be embedded whole."""

from collections.abc import Iterator

MAX_PIECE_BYTES = 8_000
"""Common embedding models take 8191 tokens, and no token is shorter than a byte."""

_MARKS = (b"\n\n", b"\n", b". ", b" ")


def split_text(text: str, max_bytes: int = MAX_PIECE_BYTES) -> Iterator[str]:
    """Yield the pieces of a text, of at most `max_bytes` (4 or more) bytes of UTF-8; joined, they are the text again.

    A piece ends with a paragraph, else a line, else a sentence, else a word, where its latter half has such an end.
    Half surrogates, which have no UTF-8, become question marks.
    """
    data = text.encode(errors="replace")
    start = 0
    while start < len(data):
        piece = data[start : start + max_bytes]
        if start + len(piece) < len(data):
            piece = piece.decode(errors="ignore").encode()
            ends = (
                piece.rfind(mark, len(piece) // 2) + len(mark) for mark in _MARKS if mark in piece[len(piece) // 2 :]
            )
            piece = piece[: next(ends, len(piece))]
        yield piece.decode()
        start += len(piece)
