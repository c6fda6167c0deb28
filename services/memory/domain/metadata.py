"""Metadata of records as JSON text."""

import json
from typing import Final

MOST_METADATA_BYTES: Final = 65_536
"""Bytes of a record's metadata as JSON text, at most."""


def canonical_json(value: object) -> str:
    """Return JSON text that is equal for equal values: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


# Made once, as `json.dumps` would make it for every call.
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
