"""Hashes of several texts, which cannot run into each other: each is preceded by its length."""

import functools
import hashlib
from typing import Any, Final

_MOST_KEPT: Final = 1024
"""Characters of a beginning that is kept: others may have written it."""


def digest(*parts: str) -> str:
    """Return the SHA-256 of parts, in hex."""
    return hashlib.sha256(_joined(parts)).hexdigest()


def digest_behind(beginning: tuple[str, ...], last: str) -> str:
    """Return the digest of parts of which all but the last are often the same: those are hashed once."""
    if sum(map(len, beginning)) > _MOST_KEPT:
        return digest(*beginning, last)
    state = _begun(beginning).copy()
    encoded = last.encode()
    state.update(len(encoded).to_bytes(8) + encoded)
    digest_in_hex: str = state.hexdigest()
    return digest_in_hex


@functools.lru_cache(1024)
def _begun(parts: tuple[str, ...]) -> Any:
    return hashlib.sha256(_joined(parts))


def _joined(parts: tuple[str, ...]) -> bytes:
    encoded = [part.encode() for part in parts]
    return b"".join([len(part).to_bytes(8) + part for part in encoded])
