"""Reads Word documents (DOCX) as Markdown: their headings, paragraphs, lists and tables, in order."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_XML_BYTES = 128 * 1024 * 1024
_MOST_ENTRIES = 10_000
_OLD_WORD = b"\xd0\xcf\x11\xe0"
_DEEPEST_TABLE = 8


def read_word(content: bytes) -> tuple[str, str]:
    """Return title and text.

    Raises:
        ValueError: it cannot be read.
    """
    if content.startswith(_OLD_WORD):
        raise ValueError("it is an old Word file, or one with a password; save it as .docx without a password")
    from docx import Document

    try:
        _check_size(content)
        document = Document(io.BytesIO(content))
        styles = {style.style_id: (style.name or "") for style in document.styles}
        blocks = "\n\n".join(_blocks(document, styles, 0))
        title = document.core_properties.title or ""
    except zipfile.BadZipFile as error:
        raise ValueError("the DOCX file is damaged, or no DOCX file; save it as DOCX anew") from error
    except SyntaxError as error:
        # What lxml raises is one.
        raise ValueError("the DOCX file has XML that cannot be read, or that is made to take all memory") from error
    except (KeyError, AttributeError, TypeError, IndexError, OSError, NotImplementedError) as error:
        # The last one is what zipfile says of ways to pack that it does not know.
        raise ValueError("the DOCX file is damaged, or of a form that cannot be read; save it as DOCX anew") from error
    return title, blocks


def _check_size(content: bytes) -> None:
    """Refuse archives that unpack to far more than documents have; what an entry declares is all that is unpacked."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > _MOST_XML_BYTES or len(entries) > _MOST_ENTRIES:
        raise ValueError(
            f"the DOCX file unpacks to {size:,} bytes in {len(entries):,} entries, and may to {_MOST_XML_BYTES:,} in "
            f"{_MOST_ENTRIES:,}; remove its pictures, or save it as PDF"
        )


def _blocks(container: Any, styles: Mapping[str, str], depth: int) -> Iterator[str]:
    from docx.text.paragraph import Paragraph

    for block in container.iter_inner_content():
        if isinstance(block, Paragraph):
            text = block.text.strip()
            if text:
                # The style itself is looked up by its id: asking the paragraph searches all styles each time.
                yield _marked(text, styles.get(block._p.style or "", ""))  # noqa: SLF001
        elif depth < _DEEPEST_TABLE:
            rows = list(_table_rows(block, styles, depth + 1))
            if rows:
                yield "\n".join([rows[0], "|" + " --- |" * rows[0].count(" |"), *rows[1:]])


def _table_rows(table: Any, styles: Mapping[str, str], depth: int) -> Iterator[str]:
    for row in table.rows:
        cells: dict[int, str] = {}
        for cell in row.cells:
            # A merged cell is given once for each of its columns.
            if id(cell._tc) not in cells:  # noqa: SLF001
                cells[id(cell._tc)] = " ".join(" ".join(_blocks(cell, styles, depth)).split())  # noqa: SLF001
        if any(cells.values()):
            yield "| " + " | ".join(text.replace("|", "\\|") for text in cells.values()) + " |"


def _marked(text: str, style: str) -> str:
    kind, _, level = style.partition(" ")
    if style == "Title":
        return "# " + " ".join(text.split())
    if kind == "Heading" and level.isdecimal():
        return "#" * min(6, int(level)) + " " + " ".join(text.split())
    return f"- {text}" if kind == "List" else text
