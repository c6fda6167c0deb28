"""Where texts are split. Every visible character is in some part, and the work grows with the text alone.

Libraries that split by sentences and words take minutes for a megabyte of Chinese, or of one long word.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.common.visible_text import has_visible_text

_SENTENCE_END = re.compile(r"""[.!?。！？…]["'”’)\]]*(?=\s)|[。！？]""")
_MOST_COMBINING = 16


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a text that is split by itself."""

    start: int
    end: int
    path: tuple[str, ...] = ()
    """The headings above it, the outermost first."""
    page: int = 0
    """From 1; 0 for none."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a part begins and ends in the text, and where in the document it stands."""

    start: int
    end: int
    path: tuple[str, ...] = ()
    page: int = 0


def split_sections(text: str, sections: Sequence[Section], size: int, overlap: int) -> Iterator[Span]:
    """Yield parts of at most `size` characters; short sections below one heading share a part."""
    for section in _packed(sections, size):
        for start, end in split_range(text, section.start, section.end, size, overlap):
            yield Span(start, end, section.path, section.page)


def split_range(text: str, start: int, end: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most `size` characters that cover what is visible of a range of a text.

    Each repeats at most `overlap` characters of the one before, which is at most a quarter of `size`.
    """
    covered = start
    while (start := _skip_space(text, start, end)) < end:
        cut = end if end - start <= size else _cut(text, start + size // 2, start + size)
        last = _strip_space(text, start, cut)
        if last > covered and has_visible_text(text[start:last]):
            yield start, last
        covered = max(covered, cut)
        if cut == end:
            return
        start = _begin_after(text, cut, overlap)


def _packed(sections: Sequence[Section], size: int) -> Iterator[Section]:
    held: Section | None = None
    for section in sections:
        if held is not None:
            path = _common(held.path, section.path)
            if held.page == section.page and section.end - held.start <= size and (path or not section.path):
                held = Section(held.start, section.end, path, held.page)
                continue
            yield held
        held = section
    if held is not None:
        yield held


def _common(some: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    count = 0
    while count < min(len(some), len(other)) and some[count] == other[count]:
        count += 1
    return some[:count]


def _cut(text: str, earliest: int, latest: int) -> int:
    """Return the best place to end a part: after a paragraph, a line, a sentence or a word; else the latest."""
    for end in ("\n\n", "\n"):
        found = text.rfind(end, earliest, latest)
        if found >= 0:
            return found + len(end)
    sentence = 0
    for match in _SENTENCE_END.finditer(text, earliest, latest):
        sentence = match.end()
    if sentence:
        return sentence
    for position in range(latest - 1, earliest, -1):
        if text[position].isspace():
            return position + 1
    for position in range(latest, max(earliest, latest - _MOST_COMBINING), -1):
        if position >= len(text) or not unicodedata.combining(text[position]):
            return position
    return latest


def _begin_after(text: str, cut: int, overlap: int) -> int:
    """Return where the part after a cut begins: at a word among the last characters before it, else at the cut."""
    for position in range(cut - overlap, cut):
        if text[position - 1].isspace() and not text[position].isspace():
            return position
    return cut


def _skip_space(text: str, start: int, end: int) -> int:
    while start < end and text[start].isspace():
        start += 1
    return start


def _strip_space(text: str, start: int, end: int) -> int:
    while end > start and text[end - 1].isspace():
        end -= 1
    return end
