r"""Strings of upstreams that hold half characters or U+0000.

JSON can say half of a surrogate pair ("\ud83d"), also with the other half in the next piece of a stream. UTF-8, and so
every protobuf message, cannot. Halves that belong together are joined, others become U+FFFD. So does U+0000, which no
database takes and no request of ours may hold: the answer is part of the next request.
"""

import re

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


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
