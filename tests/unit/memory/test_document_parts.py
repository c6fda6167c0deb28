"""How files become parts: nothing of a text is lost, parts know where they stand, and work grows with the text."""

import io
import re
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from services.common.visible_text import has_visible_text
from services.memory.parsing.documents import read_document
from services.memory.parsing.media_types import DOCX, PDF, media_type_of, parse_media_type
from services.memory.parsing.spans import split_range
from tests.support.pdf_files import pdf_of

MEDIA_TYPE_PIECES = ["text", "/", "plain", ";", " ", "charset", "*", "=", "0", "1", "utf-8", "'", '"', "%FF", "\\", "é"]
TEXTS = st.text(alphabet=st.sampled_from('ab Z.!?\n\t,;"#-=`漢字\u0301\u200b\u2028'), max_size=600)


def read(content: bytes | str, media_type: str, chunk: int = 100, overlap: int = 10, **limits: Any) -> dict[str, Any]:
    data = content.encode() if isinstance(content, str) else content
    most = {"most_characters": 10_000_000, "most_parts": 1_000_000, **limits}
    return read_document(data, media_type, "", chunk_characters=chunk, overlap_characters=overlap, **most)


def texts(found: dict[str, Any]) -> list[str]:
    return [found["text"][start:end] for start, end, _, _ in found["parts"]]


@settings(max_examples=200)
@given(st.text(max_size=40) | st.lists(st.sampled_from(MEDIA_TYPE_PIECES), max_size=12).map("".join))
def test_every_media_type_is_parsed_or_refused(text: str) -> None:
    try:
        media_type, charset = parse_media_type(text)
    except ValueError as error:
        event(f"refused: {str(error)[:30]}")
        return
    assert media_type == media_type.lower().strip()
    assert isinstance(charset, str)


@pytest.mark.parametrize("text", ["text/plain; charset*=a; charset*0=b", "pdf", "/pdf", "text/", "; charset=utf-8"])
def test_odd_media_types_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write them as|is a media type"):
        parse_media_type(text)


@settings(max_examples=150)
@given(TEXTS, st.integers(4, 60), st.data())
def test_every_visible_character_is_in_a_part(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size // 4))
    spans = list(split_range(text, 0, len(text), size, overlap))
    covered = {position for start, end in spans for position in range(start, end)}
    missing = "".join(character for position, character in enumerate(text) if position not in covered)
    assert not has_visible_text(missing)
    assert all(0 < end - start <= size for start, end in spans)
    assert all(earlier[0] < later[0] and earlier[1] <= later[1] for earlier, later in pairwise(spans))
    # Each begins at most the overlap before the end of the one before it.
    assert all(later[0] >= earlier[1] - size // 4 for earlier, later in pairwise(spans))


@settings(max_examples=60)
@given(TEXTS, st.sampled_from(["text/plain", "text/markdown", "text/csv", "text/tab-separated-values"]))
def test_no_text_of_any_type_loses_a_visible_character(text: str, media_type: str) -> None:
    try:
        found = read(text, media_type, 40)
    except ValueError:
        # A table may also be broken.
        event(f"refused: {media_type}, {has_visible_text(text)}")
        if media_type in ("text/plain", "text/markdown"):
            assert not has_visible_text(text)
        return
    kept = found["header"] + "".join(texts(found))
    for character in set(found["text"]):
        assert not has_visible_text(character) or character in kept


@pytest.mark.parametrize("text", ["lorem ipsum dolor. ", "漢字", "a", "# x\n", "word\n\n", "a,b\n", "e\u0301"])
@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown", "text/csv"])
def test_the_work_grows_with_the_text(text: str, media_type: str) -> None:
    def steps(characters: int) -> int:
        """Return how many lines of code a text of so many characters takes."""
        count = 0

        def step(*_: Any) -> Any:
            nonlocal count
            count += 1
            return step

        before = sys.gettrace()
        sys.settrace(step)
        try:
            read(text * (characters // len(text)), media_type, 1500, 150)
        finally:
            sys.settrace(before)
        return count

    assert steps(48_000) < 6 * steps(12_000)


def test_parts_of_markdown_know_the_headings_above_them() -> None:
    long = "Words that fill the section. " * 8
    text = f"Before.\n\n# Guide\n\n{long}\n\n## Install *it*\n\n```\n# no heading\n```\n{long}\n\nUse\n---\n\n{long}\n"
    found = read(text, "text/markdown", 120)
    assert found["title"] == "Guide"
    sections = list(dict.fromkeys(section for _, _, _, section in found["parts"]))
    assert sections == ["", "Guide", "Guide > Install it", "Guide > Use"]
    # Short sections below one heading share a part.
    short = read("# A\n\n## B\n\none\n\n## C\n\ntwo\n\n# D\n\nthree", "text/markdown")
    assert [(part, section) for part, (*_, section) in zip(texts(short), short["parts"], strict=True)] == [
        ("# A\n\n## B\n\none\n\n## C\n\ntwo", "A"),
        ("# D\n\nthree", "D"),
    ]


def test_rows_of_a_table_stay_whole_below_their_header() -> None:
    rows = "".join(f'"name, {number}";{number};"two\nlines"\n' for number in range(40))
    found = read(f"name;price;note\n{rows}", "text/csv", 120)
    assert found["header"] == "name;price;note"
    assert len(found["parts"]) > 8
    for part in texts(found):
        assert part.startswith('"name, ')
        assert part.endswith('lines"')
    assert "\n".join(texts(found)) + "\n" == rows
    # A row that is longer than a part is divided like a text, a long header is cut, and a header alone is a table.
    assert max(map(len, texts(read("a,b\n1," + "word " * 500, "text/csv", 120)))) <= 120
    assert len(read("head," * 500 + "\n1,2\n", "text/csv", 120)["header"]) <= 60
    assert texts(read("a,b\n", "text/csv")) == ["a,b"]


def test_pages_headings_and_tables_are_found_in_files() -> None:
    found = read(pdf_of("First page", "Second page"), PDF)
    assert [(text, page) for text, (_, _, page, _) in zip(texts(found), found["parts"], strict=True)] == [
        ("First page", 1),
        ("Second page", 2),
    ]
    page = read("<title>T</title><body><nav>no</nav><h1>A</h1><p>one</p><h2>B</h2><p>two</p></body>", "text/html", 30)
    assert page["title"] == "T"
    assert [section for *_, section in page["parts"]] == ["A"]
    assert "no" not in page["text"].split()
    word = read(_word_document(), DOCX, 60)
    assert word["title"] == "The title"
    assert word["parts"][0][3] == "Chapter"
    assert "- an item" in word["text"]
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in word["text"]


def _word_document() -> bytes:
    from docx import Document

    document = Document()
    document.core_properties.title = "The title"
    document.add_heading("Chapter", 1)
    document.add_paragraph("Some words of the chapter.")
    document.add_paragraph("an item", style="List Bullet")
    table = document.add_table(2, 2)
    for row, values in enumerate(("ab", "12")):
        for column, value in enumerate(values):
            table.cell(row, column).text = value
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "media_type", "says"),
    [
        (b"caf\xe9", "text/plain", "byte 3 is not utf-8; save it as UTF-8"),
        (b"a\0b", "text/csv", "U+0000 as character 1"),
        (b"%PDF-1.4 x", "text/plain", "no text"),
        (b"plain", PDF, "not begin like a PDF"),
        (b"plain", DOCX, "not begin like a DOCX"),
        (b"\xd0\xcf\x11\xe0" + b"x" * 600, DOCX, "without a password"),
        (b"PK\x03\x04junk", DOCX, "damaged"),
        (b"%PDF-1.4 broken", PDF, "damaged"),
        (pdf_of("", ""), PDF, "text recognition"),
        (b" \n\t ", "text/plain", "no text"),
        (b"GIF89a", "image/gif", "is not read; text, Markdown"),
    ],
)
def test_what_cannot_be_read_is_told_how_to_be_corrected(content: bytes, media_type: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        read(content, media_type)


def test_limits_name_the_setting_that_raises_them() -> None:
    with pytest.raises(ValueError, match=r"more than 10 characters.*COXSWAIN_MEMORY_DOCUMENT_CHARACTERS"):
        read("a" * 11, "text/plain", most_characters=10)
    with pytest.raises(ValueError, match=r"more than 2 parts.*COXSWAIN_MEMORY_DOCUMENT_PARTS"):
        read("word " * 200, "text/plain", most_parts=2)


def test_texts_are_read_by_their_marks_and_character_sets() -> None:
    assert texts(read("Zürich\r\nBern".encode("utf-16"), "text/plain")) == ["Zürich\nBern"]
    charset = {"chunk_characters": 100, "overlap_characters": 0, "most_characters": 99, "most_parts": 9}
    assert read_document("Zürich".encode("cp1252"), "text/plain", "windows-1252", **charset)["text"] == "Zürich"
    with pytest.raises(ValueError, match="not known"):
        read_document(b"x", "text/plain", "base64", **charset)
    assert parse_media_type('Text/CSV; Charset="latin1"') == ("text/csv", "latin1")
    assert parse_media_type("text/plain; charset*=utf-8''windows-1252") == ("text/plain", "windows-1252")
    assert parse_media_type("") == ("", "")
    assert media_type_of("A.MD", b"") == "text/markdown"
    assert [media_type_of("", start) for start in (b"%PDF-1.7", b"PK\x03\x04", b" <!DOCTYPE HTML>", b"x")] == [
        PDF,
        DOCX,
        "text/html",
        "text/plain",
    ]
