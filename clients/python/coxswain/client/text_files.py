"""Reads text files in any common encoding."""

import codecs
import sys
from dataclasses import dataclass
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, whose little-endian mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text and how it was encoded."""

    text: str
    encoding: str
    """``utf-8``, ``utf-8-sig``, ``utf-16...``, ``utf-32`` or, for anything else, ``windows-1252`` as a guess."""


class TextFileError(ValueError):
    """A file that is not text, is empty, or is too large."""


def read_text(path: Path | str, max_bytes: int) -> TextFile:
    """The text of a file, or of standard input for ``-``.

    A byte order mark decides the encoding; without one it is UTF-8, else UTF-16 without a mark, else Windows-1252.
    Raises OSError when it cannot be read and TextFileError when it is empty, binary or longer than ``max_bytes``.
    """
    name = "standard input" if str(path) == "-" else str(path)
    if str(path) == "-":
        data = sys.stdin.buffer.read(max_bytes + 1)
    else:
        with Path(path).open("rb") as file:
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TextFileError(f"{name}: larger than {max_bytes:,} bytes, the limit of an input; split it or shorten it")
    found = _decoded(data)
    if found is None:
        raise TextFileError(f"{name}: binary, not text")
    if not found.text.strip():
        raise TextFileError(f"{name}: empty")
    return found


def _decoded(data: bytes) -> TextFile | None:
    encodings = [encoding for mark, encoding in _MARKS if data.startswith(mark)][:1] or _guesses(data)
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return TextFile(text, encoding)
    return None


def _guesses(data: bytes) -> list[str]:
    if b"\0" not in data:
        return ["utf-8", "windows-1252"]
    # Latin letters in UTF-16 have a zero beside each.
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if max(even, odd) < len(data) // 2 * 0.3:
        return []
    return ["utf-16-be" if even > odd else "utf-16-le"]
