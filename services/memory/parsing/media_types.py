"""Which type a file has, by what is said of it and by what it begins with."""

from collections.abc import Mapping
from email.message import Message
from email.utils import collapse_rfc2231_value
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PDF: Final = "application/pdf"


class Format(StrEnum):
    """How a file is read."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    TABLE = "table"
    PDF = "pdf"
    WORD = "word"


_FORMATS: Mapping[str, Format] = {
    "text/markdown": Format.MARKDOWN,
    "text/x-markdown": Format.MARKDOWN,
    "text/html": Format.HTML,
    "application/xhtml+xml": Format.HTML,
    "text/csv": Format.TABLE,
    "text/tab-separated-values": Format.TABLE,
    PDF: Format.PDF,
    DOCX: Format.WORD,
}
_ENDINGS: Mapping[str, str] = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
    ".rst": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".pdf": PDF,
    ".docx": DOCX,
}
_OTHER_TEXTS = ("json", "xml", "yaml", "x-yaml", "toml", "javascript", "sql")
_MOST_CHARACTERS = 128
_READ = "text, Markdown, HTML, CSV, PDF and DOCX are read"


def parse_media_type(text: str) -> tuple[str, str]:
    """Return a media type in lower case without parameters, and its character set or an empty text.

    Raises:
        ValueError: it is no media type, or its parameters contradict each other.
    """
    media_type = text.partition(";")[0].strip().lower()
    if text and (len(media_type) > _MOST_CHARACTERS or not all(media_type.partition("/"))):
        raise ValueError('is a media type, as "application/pdf"; or leave it empty')
    header = Message()
    header["content-type"] = text
    try:
        charset = collapse_rfc2231_value(header.get_param("charset", ""))
    except (TypeError, ValueError) as error:
        # What the library stumbles over, such as a parameter that comes both whole and in numbered pieces.
        raise ValueError('has parameters that cannot be read; write them as "text/plain; charset=utf-8"') from error
    return media_type, charset


def media_type_of(file_name: str, beginning: bytes) -> str:
    """Return the media type of a file by its name, or else by its first bytes; plain text when neither says more."""
    by_name = _ENDINGS.get(PurePosixPath(file_name.lower()).suffix)
    if by_name:
        return by_name
    if b"%PDF-" in beginning[:1024]:
        return PDF
    if beginning.startswith(b"PK\x03\x04"):
        return DOCX
    start = beginning[:1024].lstrip().lower()
    return "text/html" if start.startswith((b"<!doctype html", b"<html")) else "text/plain"


def format_of(media_type: str) -> Format:
    """Return how a media type is read.

    Raises:
        ValueError: it is not read.
    """
    if media_type in _FORMATS:
        return _FORMATS[media_type]
    subtype = media_type.rpartition("/")[2].rpartition("+")[2]
    if media_type.startswith("text/") or subtype in _OTHER_TEXTS:
        return Format.TEXT
    raise ValueError(f"{media_type[:100]} is not read; {_READ}: convert the file")


def check_beginning(reading: Format, content: bytes) -> None:
    """Refuse a file that begins like one of another type.

    Raises:
        ValueError: it does.
    """
    if reading is Format.PDF:
        if b"%PDF-" not in content[:1024]:
            raise ValueError("it does not begin like a PDF file; correct media_type, or send the file unchanged")
    elif reading is Format.WORD:
        if not content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise ValueError("it does not begin like a DOCX file; correct media_type, or send the file unchanged")
    elif content.startswith(
        (b"%PDF-", b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"\x1f\x8b")
    ):
        raise ValueError(f"it is no text; correct media_type: {_READ}")
