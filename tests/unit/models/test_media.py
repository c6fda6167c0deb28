"""Files are what their bytes say."""

import pytest

from services.models.domain.media import audio_format, document_type, image_type
from tests.support.media_samples import GIF, JPEG, MP3, PDF, PNG, WAV, WEBP


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (WEBP, "image/webp"),
        (WAV, ""),
        (PDF, ""),
        (b"<svg xmlns='...'/>", ""),
        (b"", ""),
    ],
)
def test_an_image_is_known_by_its_first_bytes(data: bytes, expected: str) -> None:
    assert image_type(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PDF, "application/pdf"),
        (b"junk\n" + PDF, "application/pdf"),
        ("Grüße".encode(), "text/plain"),
        ("Grüße".encode("latin-1"), ""),
        (b"a\0b", ""),
        (PNG, ""),
    ],
)
def test_a_document_is_a_pdf_or_text_in_utf8(data: bytes, expected: str) -> None:
    assert document_type(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (WAV, "wav"),
        (MP3, "mp3"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\xff\xf9\x50\x80", "aac"),
        (b"fLaC\0", "flac"),
        (b"OggS\0", "ogg"),
        (b"\0\0\0\x20ftypM4A ", "m4a"),
        (b"\x1a\x45\xdf\xa3\x01", "webm"),
        (WEBP, ""),
        (JPEG, ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
def test_a_recording_is_known_by_its_first_bytes(data: bytes, expected: str) -> None:
    assert audio_format(data) == expected
