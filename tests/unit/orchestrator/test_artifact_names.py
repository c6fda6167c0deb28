"""What files of executions may be called: nothing that leaves a directory, or that some file system cannot hold."""

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.artifact import (
    MAX_NAME_CHARACTERS,
    BadFileName,
    conflicting,
    file_name,
    media_type_of,
    numbered,
    safe_file_name,
)


@pytest.mark.parametrize(
    "name", ["report.md", "notes/2026/über.md", "a", ".hidden", "-rf", "COM10.txt", "a b.md", "報告.md"]
)
def test_plain_relative_paths_are_names(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "relative path"),
        ("/etc/passwd", "relative path"),
        ("../secret", "relative path"),
        ("notes/../../secret", "relative path"),
        ("notes//report.md", "relative path"),
        ("notes/./report.md", "relative path"),
        ("notes/", "relative path"),
        ("..\\secret", "\\"),
        ("C:/boot.ini", ":"),
        ("a\0b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\ud800b", "U+D800"),
        ("report\u202efdp.exe", "U+202E"),
        ("a\u200bb", "U+200B"),
        ("a\u3164", "U+3164"),
        ("\u2800", "U+2800"),
        ("what?.md", "?"),
        ("NUL", "device"),
        ("notes/con.md", "device"),
        ("lpt9", "device"),
        ("COM\u00b9.log", "device"),
        ("notes/report. ", "blank"),
        ("report.", "dot"),
        (" report", "blank"),
        ("\u5831" * 100, "bytes"),
        ("a/" * 16 + "a", "parts"),
        ("x" * 10_000, "10000"),
    ],
)
def test_other_texts_are_refused_in_words(name: str, told: str) -> None:
    with pytest.raises(BadFileName) as refusal:
        file_name(name)
    assert told in str(refusal.value)
    assert len(str(refusal.value)) < 400
    str(refusal.value).encode()


def test_equal_letters_are_one_name() -> None:
    assert file_name("u\u0308ber.md") == "über.md"


@given(st.text(max_size=MAX_NAME_CHARACTERS))
def test_a_name_stays_in_its_directory_on_every_system(text: str) -> None:
    try:
        name = file_name(text)
    except BadFileName:
        return
    assert file_name(name) == name
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        assert not path.is_absolute()
        assert not path.drive
        assert ".." not in path.parts
        assert "/".join(path.parts) == name
    assert unicodedata.is_normalized("NFC", name)
    name.encode()


@given(st.text() | st.sampled_from(["../a.png", "C:\\x\\con", "a/b/", "nul.txt", ". .", "\ud800", "a" * 5000 + ".png"]))
def test_what_others_call_a_file_becomes_a_name_and_so_do_numbered_ones(text: str) -> None:
    name = safe_file_name(text)
    assert file_name(name) == name
    assert "/" not in name
    assert file_name(numbered(name, 12)) == numbered(name, 12)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("chart.png", "chart.png"),
        ("/tmp/out/chart.png", "chart.png"),
        ("C:\\out\\chart.png", "chart.png"),
        ("what?.png", "what_.png"),
        ("aux.txt", "file-aux.txt"),
        ("..", "file"),
        ("x" * 3000 + ".png", "x" * 196 + ".png"),
    ],
)
def test_a_name_stays_like_what_others_call_the_file(text: str, name: str) -> None:
    assert safe_file_name(text) == name


def test_a_number_stands_before_the_suffix() -> None:
    assert [numbered(name, 2) for name in ("chart.png", "a/b", "a.tar.gz")] == ["chart-2.png", "a/b-2", "a.tar-2.gz"]


@pytest.mark.parametrize(
    ("name", "others", "found"),
    [
        ("report.md", ["report.md", "other"], None),
        ("Report.md", ["report.md"], "report.md"),
        ("STRASSE", ["straße"], "straße"),
        ("notes/a", ["notes"], "notes"),
        ("notes", ["b", "Notes/a"], "Notes/a"),
        ("notes-2", ["notes"], None),
        ("a/b/C", ["x", "A/B/c/d"], "A/B/c/d"),
        ("a/b/c/d", ["a/b-2", "a/B"], "a/B"),
    ],
)
def test_names_that_cannot_lie_side_by_side_are_found(name: str, others: list[str], found: str | None) -> None:
    assert conflicting(name, others) == found


@pytest.mark.parametrize(
    ("name", "text", "media_type"),
    [
        ("a/report.md", True, "text/markdown"),
        ("table.csv", True, "text/csv"),
        ("note", True, "text/plain"),
        ("image.png", False, "image/png"),
        ("blob", False, "application/octet-stream"),
        ("table.csv.gz", False, "application/octet-stream"),
        ("data.yaml", True, "application/yaml"),
    ],
)
def test_a_name_tells_the_media_type(name: str, text: bool, media_type: str) -> None:
    assert media_type_of(name, text=text) == media_type
