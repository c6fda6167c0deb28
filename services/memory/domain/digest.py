"""Hashes of several texts."""

import hashlib


def digest(*parts: str) -> str:
    """Return the SHA-256 of parts that cannot run into each other: each is preceded by its length."""
    material = b""
    for part in parts:
        encoded = part.encode()
        material += len(encoded).to_bytes(8, "big") + encoded
    return hashlib.sha256(material).hexdigest()
