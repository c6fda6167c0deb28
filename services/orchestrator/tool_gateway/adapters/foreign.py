"""What sources say, made safe to keep: bounded, without characters that hide or cannot be stored, and valid JSON."""

import re
from typing import Any

from services.common.bounded_json import loads_bounded
from services.common.storable import storable
from services.orchestrator.tool_gateway.ports import StoredFile

MAX_JSON_BYTES = 1024 * 1024
MAX_SCHEMA_BYTES = 256 * 1024
_MAX_FILE_NAME_BYTES = 255
_MAX_MEDIA_TYPE_BYTES = 128
_ANY_BYTES = "application/octet-stream"
# Controls but tab and line breaks, characters of direction and width that hide text, and halves of surrogate pairs.
_HIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


class ForeignTextError(ValueError):
    """What a source sent cannot be used; the text says why, with nothing of the content in it."""


def shown(text: str, max_bytes: int) -> str:
    """Return a text for people: without hidden characters, and no longer than `max_bytes` in UTF-8."""
    # A character has at most four bytes: what is cut here cannot be needed.
    data = storable(_HIDDEN.sub("", text[:max_bytes])).encode()
    return data[:max_bytes].decode(errors="ignore")


def stored_file(name: str, media_type: str, content: bytes) -> StoredFile:
    """Return a file under a name and a type that can be shown, whatever its source calls it."""
    base = shown(name.replace("\\", "/").rpartition("/")[2], _MAX_FILE_NAME_BYTES).strip(". ")
    return StoredFile(base or "file", shown(media_type, _MAX_MEDIA_TYPE_BYTES) or _ANY_BYTES, content)


def parse_json(text: str, what: str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value of a JSON text whose strings can be stored. Large ones take long: parse them beside the loop.

    Raises:
        ForeignTextError: it is not JSON, too large, or beyond the bounds of `bounded_json`.
    """
    data = text.encode()
    if len(data) > max_bytes:
        raise ForeignTextError(f"{what} is larger than {max_bytes} bytes")
    try:
        return loads_bounded(data, storable)
    except ValueError as error:
        raise ForeignTextError(f"{what} is not usable JSON: {error}") from None


def parse_object(text: str, what: str, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        ForeignTextError: it is another value, or see `parse_json`.
    """
    value = parse_json(text, what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ForeignTextError(f"{what} is not a JSON object")
    return value
