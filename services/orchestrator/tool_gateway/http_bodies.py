"""Turns the body of an HTTP response into the result of a tool."""

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from services.common.bounded_json import loads_bounded
from services.common.storable import storable
from services.orchestrator.tool_gateway.ports import StoredFile, ToolResult

MAX_ERROR_BYTES = 4096
_MASK = "[secret]"
_MIN_SECRET = 6
_LARGE = 32 * 1024
"""Bytes from which a body is read off the event loop."""
_MAX_JSON = 4 * 1024 * 1024
"""Bytes up to which JSON is parsed, which takes seconds then. More stays text."""
_EXTENSIONS = {"application/pdf": "pdf", "application/zip": "zip", "image/png": "png", "image/jpeg": "jpg"}


class BadBody(ValueError):
    """A body is not what it says it is; the text says what is wrong."""


async def read_result(body: bytes, content_type: str, *, pointer: str, secrets: Iterable[str], name: str) -> ToolResult:
    """Return the result that a body holds: JSON, text, or a file named after the tool.

    `pointer` (RFC 6901) selects a part of JSON; of more than 4 MiB everything is returned, as text. `secrets` are
    replaced wherever they occur.

    Raises:
        BadBody: it is not of its type, or the part is not there.
    """
    hidden = tuple(secrets)
    if len(body) > _LARGE:
        return await asyncio.to_thread(_result, body, content_type, pointer, hidden, name)
    return _result(body, content_type, pointer, hidden, name)


def error_text(body: bytes, content_type: str, secrets: Iterable[str]) -> str:
    """Return the beginning of an error's body as text, at most `MAX_ERROR_BYTES` of it."""
    if not _is_text(content_type) and not is_json(content_type):
        return ""
    # A secret at the cut must not be left in halves.
    text = masked(_decoded(body[: 8 * MAX_ERROR_BYTES], content_type), secrets)
    return text.encode()[:MAX_ERROR_BYTES].decode(errors="ignore").strip()


def masked(text: str, secrets: Iterable[str]) -> str:
    """Return a text without the secrets that were sent: servers repeat what they got."""
    return without(text, forms_of(secrets))


def forms_of(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the forms in which secrets may be repeated."""
    return tuple(form for secret in secrets for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")})


def without(text: str, forms: Iterable[str]) -> str:
    """Return a text without any of the forms of secrets."""
    for form in forms:
        if form in text:
            text = text.replace(form, _MASK)
    return text


def secrets_of(headers: Iterable[str]) -> tuple[str, ...]:
    """Return what must not be repeated of header values: each value and its last word, the longest first."""
    found = {part for value in headers for part in (value, value.rpartition(" ")[2]) if len(part) >= _MIN_SECRET}
    return tuple(sorted(found, key=len, reverse=True))


def is_json(content_type: str) -> bool:
    """Return whether a media type is one of JSON."""
    media = _media_type(content_type)
    return media in ("application/json", "text/json") or media.endswith("+json")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, with valid Unicode and no U+0000 in its strings.

    Raises:
        BadBody: it is not JSON, or beyond the bounds of `bounded_json`.
    """
    try:
        return loads_bounded(text.encode(errors="replace"), storable)
    except ValueError as error:
        raise BadBody(str(error)) from None


def at_pointer(value: Any, pointer: str) -> Any:
    """Return the part of a JSON value that a JSON Pointer names.

    Raises:
        BadBody: there is no such part.
    """
    if not pointer:
        return value
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,9}", name) and int(name) < len(value):
            value = value[int(name)]
        else:
            raise BadBody(f"it has nothing at {pointer}")
    return value


def to_text(value: Any) -> str:
    """Return a JSON value as models are shown it: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _result(body: bytes, content_type: str, pointer: str, secrets: tuple[str, ...], name: str) -> ToolResult:
    if (is_json(content_type) or pointer) and len(body) <= _MAX_JSON:
        value = at_pointer(parse_json(masked(_decoded(body, content_type), secrets)), pointer)
        return ToolResult(to_text(value), structured=value)
    if _is_text(content_type) or is_json(content_type):
        return ToolResult(masked(_decoded(body, content_type), secrets))
    media = _media_type(content_type) or "application/octet-stream"
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64] or "answer"
    file = StoredFile(f"{safe}.{_EXTENSIONS.get(media, 'bin')}", media, body)
    return ToolResult(f"The answer is a file of {len(body)} bytes ({media}).", files=(file,))


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_text(content_type: str) -> bool:
    media = _media_type(content_type)
    return (
        not media
        or media.startswith("text/")
        or media.endswith(("+xml", "+yaml"))
        or media in ("application/xml", "application/yaml", "application/javascript", "application/x-ndjson")
    )


def _decoded(body: bytes, content_type: str) -> str:
    found = re.search(r"charset=\"?([A-Za-z0-9._-]{1,40})", content_type, re.IGNORECASE)
    charset = found[1].lower() if found and not is_json(content_type) else "utf-8"
    if charset not in ("utf-8", "utf8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252", "utf-16"):
        charset = "utf-8"
    return storable(body.decode(charset, "replace").removeprefix("\ufeff"))
