"""JSON from and to upstreams, fast where it is plain and tolerant where it is not."""

import json
from collections.abc import Mapping
from typing import Any

import orjson


def read_json(text: str | bytes) -> Any:
    """Return the document in a text.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Upstreams send half characters, NaN, marks of the byte order, and other encodings than UTF-8 or damaged ones.
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "replace")
        return json.loads(text)


def write_json(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        # Half characters and whole numbers of more than 64 bits.
        return json.dumps(document, separators=(",", ":")).encode()
