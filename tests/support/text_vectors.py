"""Deterministic text embeddings: hashed words and letter trigrams, unit length, near texts near."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from functools import lru_cache

_WORD = re.compile(r"\w+")
_TRIGRAM_WEIGHT = 0.35


def embed_text(text: str, dimensions: int) -> list[float]:
    """Return `dimensions` floats of unit length; the same text gives the same vector in every process."""
    vector = [0.0] * dimensions
    for feature, weight in _features(text):
        digest = _digest(feature)
        vector[(digest >> 1) % dimensions] += weight if digest & 1 else -weight
    length = math.sqrt(math.fsum(value * value for value in vector))
    if length == 0.0:
        # No words at all, or features that cancel out: still a unit vector, as real embedders give.
        vector[0] = 1.0
        return vector
    return [value / length for value in vector]


@lru_cache(100_000)
def _digest(feature: str) -> int:
    return int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")


def _features(text: str) -> Iterator[tuple[str, float]]:
    for word in _WORD.findall(text.casefold()):
        yield f"w:{word}", 1.0
        padded = f"^{word}$"
        for start in range(len(padded) - 2):
            yield f"t:{padded[start : start + 3]}", _TRIGRAM_WEIGHT
