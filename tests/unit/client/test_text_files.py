"""Text files of any common encoding are read, and other files are refused."""

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.client.text_files import TextFileError, read_text

SENTENCE = "Café, naïve, coöperate: the light was kept."


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("windows-1252", "windows-1252"),
        ("iso-8859-1", "windows-1252"),
    ],
)
def test_common_encodings_are_told_apart(tmp_path: Path, encoding: str, found: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(SENTENCE.encode(encoding))
    text = read_text(path, 1000)
    assert (text.text, text.encoding) == (SENTENCE, found)


@pytest.mark.parametrize(
    "data", [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0>\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0" * 64]
)
def test_binary_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TextFileError, match="binary"):
        read_text(path, 1000)


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TextFileError, match="empty"):
        read_text(path, 1000)


def test_a_file_that_is_too_big_is_refused_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 1001)
    with pytest.raises(TextFileError, match=r"1,000 bytes"):
        read_text(path, 1000)
    path.write_bytes(b"a" * 1000)
    assert len(read_text(path, 1000).text) == 1000


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SENTENCE.encode())))
    assert read_text("-", 1000).text == SENTENCE


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
        lambda text: text.strip("\ufeff \u2028\u2029").strip()
    )
)
def test_every_text_in_utf8_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("text") / "file"
    path.write_bytes(text.encode())
    assert read_text(path, 10**6).text == text.removeprefix("\ufeff")
