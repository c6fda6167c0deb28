"""Thoughts that open models write into the text, between `<think>` and `</think>`."""

_OPEN = "<think>"
_CLOSE = "</think>"
_MAX_HELD = 1000
"""Characters of white space that may stand before a tag."""


class ThinkTagSplitter:
    """Parts a text that arrives in pieces into reasoning and text.

    Only a tag at the very beginning of the text counts: a model that writes about tags later means just that.
    """

    __slots__ = ("_held", "_state")

    def __init__(self) -> None:
        self._held = ""
        self._state = "beginning"

    def feed(self, piece: str) -> tuple[str, str]:
        """Return the reasoning and the text that a piece adds. What may be half a tag waits for the next piece."""
        if self._state == "text":
            return "", piece
        held, self._held = self._held + piece, ""
        if self._state == "beginning":
            begun = held.lstrip()
            if len(begun) < len(_OPEN) and _OPEN.startswith(begun) and len(held) < _MAX_HELD:
                self._held = held
                return "", ""
            if not begun.startswith(_OPEN):
                self._state = "text"
                return "", held
            self._state = "thought"
            held = begun[len(_OPEN) :]
        if self._state == "after":
            return "", self._after(held)
        reasoning, closed, rest = held.partition(_CLOSE)
        if closed:
            self._state = "after"
            return reasoning, self._after(rest)
        keep = _overlap(reasoning)
        self._held = reasoning[len(reasoning) - keep :]
        return reasoning[: len(reasoning) - keep], ""

    def finish(self) -> tuple[str, str]:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thought" else ("", held)

    def _after(self, rest: str) -> str:
        """Drop the empty lines between a thought and the text."""
        text = rest.lstrip("\r\n")
        if text:
            self._state = "text"
        return text


def _overlap(text: str) -> int:
    """Return how many characters at the end of a text may be the beginning of the closing tag."""
    return next((size for size in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:size])), 0)
