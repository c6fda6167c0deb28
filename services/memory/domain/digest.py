"""Hashes of several texts."""

import hashlib


def digest(*parts: str) -> str:
    """Return the SHA-256 of parts that cannot run into each other: each is preceded by its length."""
    hashed = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(8, "big"))
        hashed.update(encoded)
    return hashed.hexdigest()
