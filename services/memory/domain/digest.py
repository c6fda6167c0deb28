"""Hashes of several texts."""

import hashlib


def digest(*parts: str) -> str:
    """Return the SHA-256 of parts that cannot run into each other: each is preceded by its length."""
    encoded = [part.encode() for part in parts]
    return hashlib.sha256(b"".join([len(part).to_bytes(8) + part for part in encoded])).hexdigest()
