"""Whole sentences out of plain text or Markdown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.models.providers.offline.words import ABBREVIATIONS

# Every repetition that could run over a whole text is bounded: the patterns see texts that anybody wrote, and a match
# holds up the whole process.
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_HEADING = re.compile(r"^\s{0,3}#{1,6}(?:\s|$)")
_UNDERLINE = re.compile(r"^\s*(?:=+|-+|\*{3,}|_{3,}|[-*_](?:\s+[-*_]){2,})\s*$")
_TABLE_ROW = re.compile(r"^\s*\|")
_QUOTE_MARK = re.compile(r"^\s*(?:>\s?)+")
_LIST_MARK = re.compile(r"^\s*(?:[-*+•‣◦–—]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)])\s+")
_IMAGE = re.compile(r"!\[[^\]]{0,300}\]\([^)]{0,300}\)")
_LINK = re.compile(r"\[([^\]]{1,300})\]\([^)]{0,300}\)")
_FOOTNOTE = re.compile(r"\[\^?\d{1,3}\]")
_TAG = re.compile(
    r"</?(?:a|b|blockquote|br|cite|code|div|em|font|h\d|i|li|mark|p|q|s|small|span|strong|sub|sup|u|ul|ol)\b[^<>]{0,200}>",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"(?<![\w*`])(\*\*|__|\*|_|`)(?=\S)(.{1,300}?)(?<=\S)\1(?![\w*`])")
_SPACE = re.compile(r"\s+")
_NO_LETTER = re.compile(r"[\W_]+")

# A sentence ends at a mark (with the quotes and brackets that close behind it) followed by space and what may begin
# one, or at a mark of the scripts that put no space there.
_END = re.compile(r"""[.!?…]{1,8}["'”’»)\]]{0,8}(?=\s["'“‘«(\[¿¡]{0,8}[^\W_])|[。！？]+[」』”）]*""")
# Within the last `_NEAR` characters.
_LAST_WORD = re.compile(r"[\w.’'-]{0,40}$")
_TERMINAL = re.compile(r"""[.!?…。！？]["'”’»)\]」』）]*$""")
_OPENERS = "\"'“‘«([¿¡*_"
_PAIRS = (("(", ")"), ("[", "]"), ("“", "”"), ("«", "»"))

# A text longer than any paragraph is not Markdown.
_MAX_MARKED_UP = 20_000
# How far a look around the end of a sentence goes.
_NEAR = 40
_MIN_WORDS, _MAX_WORDS = 5, 60
_MIN_CHARACTERS, _MAX_CHARACTERS = 20, 480


@dataclass(frozen=True, slots=True)
class Sentence:
    """A whole sentence of a text, on one line."""

    text: str
    opens_paragraph: bool


def split_sentences(text: str) -> list[Sentence]:
    """Return the whole sentences of `text` in order, each once.

    Headings, tables, code, list markers and fragments are left out: what has no capital, no end, no words to speak of.
    """
    found: dict[str, Sentence] = {}
    for block in _blocks(text):
        for position, sentence in enumerate(_cut(block)):
            if _is_whole(sentence):
                found.setdefault(_identity(sentence), Sentence(sentence, opens_paragraph=position == 0))
    return list(found.values())


def split_lines(text: str) -> list[Sentence]:
    """Return every line of `text` that says something, each once: for texts without whole sentences."""
    found: dict[str, Sentence] = {}
    for block in _blocks(text, drop_headings=False):
        for position, piece in enumerate(_cut(block)):
            if any(character.isalnum() for character in piece):
                found.setdefault(_identity(piece), Sentence(piece, opens_paragraph=position == 0))
    return list(found.values())


def _blocks(text: str, *, drop_headings: bool = True) -> Iterator[str]:
    """Yield paragraphs and list items as single lines."""
    lines: list[str] = []
    in_code = in_item = False
    for raw in [*text.splitlines(), ""]:
        if _FENCE.match(raw):
            in_code = not in_code
            raw = ""
        elif in_code:
            continue
        line = _QUOTE_MARK.sub("", raw)
        is_heading = bool(_HEADING.match(line))
        starts_item = bool(_LIST_MARK.match(line))
        underlines = bool(_UNDERLINE.match(line))
        # An indented line does not continue the line above, except under a list mark.
        indented_anew = bool(lines) and not in_item and _indent(line) > _indent(lines[-1])
        if indented_anew or not line.strip() or is_heading or starts_item or underlines or _TABLE_ROW.match(line):
            # The line above an underline is its heading.
            if lines and not (drop_headings and underlines and len(lines) == 1 and set(line.strip()) <= {"=", "-"}):
                yield _plain(" ".join(lines))
            lines = []
            in_item = starts_item
        if starts_item:
            lines.append(_LIST_MARK.sub("", line))
        elif is_heading:
            if not drop_headings:
                yield _plain(line.lstrip("# "))
        elif line.strip() and not underlines and not _TABLE_ROW.match(line):
            lines.append(line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _plain(text: str) -> str:
    if len(text) <= _MAX_MARKED_UP:
        text = _LINK.sub(r"\1", _IMAGE.sub("", text))
        text = _TAG.sub("", _FOOTNOTE.sub("", text))
        text = _EMPHASIS.sub(r"\2", text)
    return _SPACE.sub(" ", text).strip()


def _cut(block: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(block):
        if _ends_here(block, start, end):
            yield block[start : end.end()].strip()
            start = end.end()
    if rest := block[start:].strip():
        yield rest


def _ends_here(block: str, start: int, end: re.Match[str]) -> bool:
    mark = end.group()
    following = block[end.end() : end.end() + _NEAR].lstrip().lstrip(_OPENERS)
    if following and following[0].islower():
        return False
    if mark[0] != "." or mark.startswith(".."):
        return True
    last = _LAST_WORD.search(block, max(start, end.start() - _NEAR), end.start())
    word = last.group().strip("'’") if last else ""
    if word.lower() in ABBREVIATIONS:
        # "etc." and its like end a sentence as often as not; before a capital they do.
        return (
            word.lower() in {"etc", "usw", "al", "inc", "ltd", "co", "corp", "jr", "sr"} and not following[:1].isdigit()
        )
    # Initials: "J. S. Mill", "U.S. Navy".
    return not (len(word) == 1 and word.isalpha() and word != "I") and not re.fullmatch(
        r"(?:[A-Za-z]\.)+[A-Za-z]", word
    )


def _is_whole(sentence: str) -> bool:
    opening = sentence.lstrip(_OPENERS)[:1]
    if not opening or opening.islower() or not opening.isalnum() or not _TERMINAL.search(sentence):
        return False
    if any(sentence.count(left) != sentence.count(right) for left, right in _PAIRS) or sentence.count('"') % 2:
        return False
    letters = sum(character.isalpha() for character in sentence)
    if letters < len(sentence) * 0.6 or sentence.upper() == sentence != sentence.lower():
        return False
    if sentence.isascii() or " " in sentence:
        return _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS and _MIN_CHARACTERS <= len(sentence) <= _MAX_CHARACTERS
    # Scripts without spaces say as much in a third of the characters.
    return _MIN_CHARACTERS // 3 <= len(sentence) <= _MAX_CHARACTERS // 3


def _identity(sentence: str) -> str:
    """What two sentences share that differ in case, spacing and punctuation only."""
    return _NO_LETTER.sub("", sentence.casefold())
