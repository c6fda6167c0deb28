"""Figures of a text."""

import re
from collections import Counter
from typing import Any

from services.orchestrator.worker.crew.tools.base import JournaledTool

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
# A whole run of marks: where it ends nothing, it would be looked through from each of its marks.
_SENTENCE_END = re.compile(r"(?<![.!?…。！？])[.!?…。！？]++(?=\s|$)")
_PARAGRAPH_END = re.compile(r"\n\s*\n")


def describe(text: str, frequent_words: int) -> str:
    """Return the figures of a text, one in each line."""
    words = _WORD.findall(text)
    lines = [
        f"characters: {len(text)}",
        f"words: {len(words)}",
        f"sentences: {sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text))}",
        f"paragraphs: {sum(bool(part.strip()) for part in _PARAGRAPH_END.split(text))}",
    ]
    if frequent_words and words:
        # Those that appear equally often stand in the order of the alphabet, so that the answer is always the same.
        ranked = sorted(Counter(word.casefold() for word in words).items(), key=lambda item: (-item[1], item[0]))
        lines.append(
            "most frequent words: " + ", ".join(f"{word} ({count})" for word, count in ranked[:frequent_words])
        )
    return "\n".join(lines)


class TextStatistics(JournaledTool):
    """Counts what a text is made of."""

    def perform(self, **arguments: Any) -> str:
        """Return the figures."""
        return describe(arguments["text"], self._config.get("frequent_words", 10))
