"""What files in messages are, by their first bytes."""

IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""Media types that every upstream which sees images can read."""
PDF = "application/pdf"
PLAIN_TEXT = "text/plain"
AUDIO_FORMATS = ("wav", "mp3", "flac", "ogg", "aac", "m4a", "webm")
"""Formats of recordings, by the names of OpenAI's interface."""

# The mark of a PDF may stand behind a few other bytes.
_PDF_HEAD_BYTES = 1024


def image_type(data: bytes) -> str:
    """Return the media type of an image; empty when it is none of `IMAGE_TYPES`."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return ""


def document_type(data: bytes) -> str:
    """Return the media type of a document: a PDF, or plain text in UTF-8; empty when it is neither."""
    if b"%PDF-" in data[:_PDF_HEAD_BYTES]:
        return PDF
    return PLAIN_TEXT if is_text(data) else ""


def is_text(data: bytes) -> bool:
    """Whether data is text in UTF-8."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def audio_format(data: bytes) -> str:
    """Return the format of a recording; empty when it is none of `AUDIO_FORMATS`."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data.startswith(b"fLaC"):
        return "flac"
    if data.startswith(b"OggS"):
        return "ogg"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm"
    if data[4:8] == b"ftyp":
        return "m4a"
    if data.startswith(b"ID3"):
        return "mp3"
    if len(data) > 1 and data[0] == 0xFF:
        # Frames of both begin with eleven or twelve set bits; the layer, two bits, is 0 in AAC alone.
        if data[1] & 0xF6 == 0xF0:
            return "aac"
        if data[1] & 0xE0 == 0xE0 and data[1] & 0x06:
            return "mp3"
    return ""
