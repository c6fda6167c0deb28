"""The sections of a text in Markdown.

Only headings are looked for, outside of fenced code: a whole parser takes a hundred times as long for what it finds
beside them.
"""

import re

from services.memory.parsing.spans import Section

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r"\A {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_NO_TITLE = re.compile(r"\A\s*(?:[>#|*+-]|\d+[.)]|`{3}|~{3}|$)")
_MARKUP = re.compile(r"[*_`]+|!?\[([^\]]{0,400})\]\([^)]{0,400}\)")
_MARKS = frozenset("#`~=-")
_TITLE_CHARACTERS = 200
_MOST_LEVELS = 6


def sections(text: str) -> list[Section]:
    """Return the sections that headings begin, in order; the first one may have none above it."""
    found: list[Section] = []
    path: list[tuple[int, str]] = []
    start, position, fence = 0, 0, ""
    line_before, before = "", 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        heading: tuple[int, int, str] | None = None
        # Most lines are neither: patterns are tried on the others alone.
        fenced = _FENCE.match(bare) if bare.lstrip(" ")[:1] in _MARKS else None
        if fence:
            if fenced and fenced[1].startswith(fence) and not bare.strip().strip(fence[0]):
                fence = ""
        elif fenced:
            fence = fenced[1]
        elif bare.lstrip(" ")[:1] not in _MARKS:
            pass
        elif match := _HEADING.match(bare[: _TITLE_CHARACTERS * 2]):
            heading = position, len(match[1]), match[2] or ""
        elif (match := _UNDERLINE.match(bare)) and not _NO_TITLE.match(line_before):
            heading = before, 1 if match[1][0] == "=" else 2, line_before
        if heading is not None:
            begins, level, title = heading
            found.append(Section(start, begins, tuple(name for _, name in path)))
            path = [(depth, name) for depth, name in path if depth < level][:_MOST_LEVELS]
            if name := _plain(title):
                path.append((level, name))
            start = begins
        line_before, before = ("" if fence or heading else bare), position
        position += len(line)
    found.append(Section(start, len(text), tuple(name for _, name in path)))
    return [section for section in found if section.end > section.start]


def title_of(found: list[Section]) -> str:
    """Return the first heading of the highest level, or an empty text."""
    return next((section.path[0] for section in found if section.path), "")


def _plain(title: str) -> str:
    title = _MARKUP.sub(lambda match: match[1] or "", title[: _TITLE_CHARACTERS * 2])
    return " ".join(title.split())[:_TITLE_CHARACTERS]
