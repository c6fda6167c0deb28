r"""Strings of upstreams that hold half characters or U+0000.

JSON can say half of a surrogate pair ("\ud83d"), also with the other half in the next piece of a stream. UTF-8, and so
every protobuf message, cannot. Halves that belong together are joined, others become U+FFFD. So does U+0000, which no
database takes and no request of ours may hold: the answer is part of the next request.

Arguments of tool calls are JSON texts themselves: their own escapes are mended too, for whoever reads the arguments.
"""

import re

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
_ESCAPED_FIRST = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_ESCAPED_SECOND = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_BAD_ESCAPE = re.compile(rf"\\u0000|{_ESCAPED_FIRST}(?!{_ESCAPED_SECOND})|(?<!{_ESCAPED_FIRST}){_ESCAPED_SECOND}")
# An escape that is not over, or one whose other half may follow.
_OPEN_ESCAPE = re.compile(rf"(?:{_ESCAPED_FIRST})?\\(?:u[0-9a-fA-F]{{0,3}})?\Z|{_ESCAPED_FIRST}\Z")
_LONGEST_OPEN_ESCAPE = 11


def repair(text: str) -> str:
    """Return a text with pairs of halves joined, and single halves and U+0000 replaced."""
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    # Most texts are ASCII, which Python knows of each without looking.
    if text.isascii() or _HALF.search(text) is None:
        return text
    # Python's codecs would call a function for each half: an answer may hold millions.
    return _HALF.sub(_REPLACEMENT, _PAIR.sub(_joined, text))


def _joined(pair: re.Match[str]) -> str:
    return pair.group().encode("utf-16", "surrogatepass").decode("utf-16")


class PieceRepair:
    """Repairs one field of a stream: a first half at the end of a piece waits for the next piece."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what can be passed on after a piece; it may be empty."""
        if not piece:
            return ""
        text = self._held + piece
        self._held = ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return repair(text)

    def finish(self) -> str:
        """Return what was held back, at the end of the field."""
        held, self._held = self._held, ""
        return _REPLACEMENT if held else ""


def repair_json(text: str) -> str:
    """Return a JSON text repaired as `repair` does, with what its escapes stand for."""
    text = repair(text)
    if "\\u" not in text:
        return text
    # U+0000 is in no repaired text: it stands for escaped backslashes, after which no escape begins.
    hidden = text.replace("\\\\", "\0\0")
    return _BAD_ESCAPE.sub(r"\\ufffd", hidden).replace("\0", "\\")


class JsonPieceRepair:
    """Repairs one JSON text of a stream: an escape at the end of a piece waits for the next one until it is whole."""

    __slots__ = ("_held", "_pieces")

    def __init__(self) -> None:
        self._pieces = PieceRepair()
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what can be passed on after a piece; it may be empty."""
        text = self._held + self._pieces.feed(piece)
        self._held = ""
        if "\\" not in text:
            return text
        hidden = text.replace("\\\\", "\0\0")
        if (end := _OPEN_ESCAPE.search(hidden, max(0, len(text) - _LONGEST_OPEN_ESCAPE))) is not None:
            text, self._held = text[: end.start()], text[end.start() :]
        return repair_json(text)

    def finish(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held + self._pieces.finish(), ""
        return repair_json(held)
