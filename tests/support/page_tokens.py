"""Page tokens as an older release, or somebody who has the key, would write them."""

import base64
import json
from typing import Any

from services.common import paging


def token_with_key(token: str, key: Any) -> str:
    """Return a sealed token of the same listing and filters with another sort key."""
    sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    fingerprint, _ = json.loads(sealed[paging._SEAL_BYTES :])
    document = json.dumps([fingerprint, key]).encode()
    return base64.urlsafe_b64encode(paging._seal.of(document) + document).decode().rstrip("=")
