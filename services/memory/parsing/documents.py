"""Files to text and parts; runs in the helper process alone, as files come from anybody."""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.memory.parsing import markdown
from services.memory.parsing.media_types import Format, check_beginning, format_of
from services.memory.parsing.spans import Section, Span, split_sections
from services.memory.parsing.tables import split_table
from services.memory.parsing.word import read_word

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")
_TITLE_CHARACTERS = 500
_SECTION_CHARACTERS = 1024
_MOST_PAGES = 100_000
_BETWEEN_PAGES = "\n\n"


@dataclass(frozen=True, slots=True)
class _Text:
    """What a file says."""

    text: str
    sections: Sequence[Section]
    title: str = ""
    pages: int = 0


def read_document(
    content: bytes,
    media_type: str,
    charset: str,
    *,
    chunk_characters: int,
    overlap_characters: int,
    most_characters: int,
    most_parts: int,
) -> dict[str, Any]:
    """Return `title`, `text`, `pages`, `header` (what every part begins with) and `parts` of a file.

    Each part is `[start, end, page, section]`, the first two in characters of the text.

    Raises:
        ValueError: it cannot be read, or has too many characters or parts.
    """
    reading = format_of(media_type)
    check_beginning(reading, content)
    header = ""
    spans: Iterator[Span]
    if reading is Format.TABLE:
        found = _Text(_decoded(content, charset), ())
        _check_length(found.text, most_characters)
        tabs = "\t" if media_type == "text/tab-separated-values" else ""
        header, spans = split_table(found.text, chunk_characters, tabs)
    else:
        found = _read(reading, content, charset, most_characters)
        _check_length(found.text, most_characters)
        spans = split_sections(found.text, found.sections, chunk_characters, overlap_characters)
    parts: list[list[Any]] = []
    for span in spans:
        if len(parts) == most_parts:
            raise ValueError(
                f"it makes more than {most_parts:,} parts; raise chunk_characters, divide the file, or have the "
                "operator raise COXSWAIN_MEMORY_DOCUMENT_PARTS"
            )
        parts.append([span.start, span.end, span.page, " > ".join(span.path)[:_SECTION_CHARACTERS]])
    if not parts:
        raise ValueError(
            "it has no text"
            + ("; a scanned PDF file needs text recognition first" if found.pages else "; send a file that has some")
        )
    return {
        "title": _NOT_STORABLE.sub("\ufffd", found.title.strip())[:_TITLE_CHARACTERS],
        "text": found.text,
        "pages": found.pages,
        "header": header,
        "parts": parts,
    }


def _read(reading: Format, content: bytes, charset: str, most_characters: int) -> _Text:
    if reading is Format.PDF:
        from services.common.reading.pages import pdf_pages

        title, pages = pdf_pages(content, most_characters, _MOST_PAGES)
        return _paged(title, [_storable(page) for page in pages])
    if reading is Format.WORD:
        title, text = read_word(content)
        return _marked_up(_storable(text), title)
    if reading is Format.HTML:
        from services.common.reading.pages import read_page

        page = read_page(content, _known(charset), "")
        return _marked_up(_storable(page["text"]), page["title"])
    text = _decoded(content, charset)
    return _marked_up(text, "") if reading is Format.MARKDOWN else _Text(text, [Section(0, len(text))])


def _marked_up(text: str, title: str) -> _Text:
    sections = markdown.sections(text)
    return _Text(text, sections, title or markdown.title_of(sections))


def _paged(title: str, pages: Sequence[str]) -> _Text:
    sections: list[Section] = []
    start = 0
    for number, page in enumerate(pages, 1):
        sections.append(Section(start, start + len(page), page=number))
        start += len(page) + len(_BETWEEN_PAGES)
    return _Text(_BETWEEN_PAGES.join(pages), sections, title, len(pages))


def _check_length(text: str, most_characters: int) -> None:
    if len(text) > most_characters:
        raise ValueError(
            f"it has more than {most_characters:,} characters of text; divide it, or have the operator raise "
            "COXSWAIN_MEMORY_DOCUMENT_CHARACTERS"
        )


def _decoded(content: bytes, charset: str) -> str:
    """Return the text of a file, its lines ended by \\n."""
    encoding = next((name for bom, name in _BOMS if content.startswith(bom)), "") or _known(charset) or "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        hint = "save it as UTF-8, or name its character set" if encoding == "utf-8" else "name its real character set"
        raise ValueError(
            f'its byte {error.start:,} is not {encoding}; {hint}, as in media_type "text/plain; charset=windows-1252"'
        ) from error
    nul = text.find("\0")
    if nul >= 0:
        raise ValueError(
            f"it has U+0000 as character {nul:,}, which no text has; remove it, correct media_type, or name "
            'the character set, as in "text/plain; charset=utf-16-le"'
        )
    return _storable(text)


def _known(charset: str) -> str:
    """Return a character set as Python knows it; an empty text stays one."""
    if not charset:
        return ""
    try:
        if codecs.lookup(charset)._is_text_encoding:  # noqa: SLF001 - what bytes.decode asks, too
            return charset
    except LookupError:
        pass
    raise ValueError(f'its character set "{charset[:40]}" is not known; name one such as utf-8 or windows-1252')


def _storable(text: str) -> str:
    """Return a text without what a database cannot hold, its lines ended by \\n."""
    return _NOT_STORABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
