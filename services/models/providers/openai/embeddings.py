"""Vectors of OpenAI's HTTP interface and its dialects."""

import base64
import binascii
from typing import Any

import numpy as np

from services.models.domain.answer import Embeddings, Vectors
from services.models.providers.openai.response_errors import BadResponse
from services.models.providers.usage_reading import read_usage


def read_embeddings(document: Any, expected: int) -> Embeddings:
    """Return unit-length vectors in the order of the request.

    Raises:
        BadResponse: they are not `expected` vectors of one length, finite and not zero.
    """
    if not isinstance(document, dict):
        raise BadResponse("it is not a JSON object")
    data = document.get("data")
    if not isinstance(data, list):
        raise BadResponse("its data is not a list")
    if len(data) != expected:
        raise BadResponse(f"it has {len(data)} embeddings for {expected} texts")
    indexes = [row.get("index") if isinstance(row, dict) else None for row in data]
    # Where several have the same one, it says nothing of their order.
    if all(isinstance(index, int) for index in indexes) and len(set(indexes)) == expected:
        data = sorted(data, key=lambda row: row["index"])
    rows = [_vector(row.get("embedding") if isinstance(row, dict) else None) for row in data]
    if len({row.shape for row in rows}) != 1 or rows[0].size == 0:
        raise BadResponse("its embeddings differ in length or are empty")
    vectors: Vectors = np.stack(rows)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or not (lengths > 0).all():
        raise BadResponse("an embedding is zero or not finite")
    return Embeddings(vectors / lengths, read_usage(document.get("usage")))


def _vector(value: Any) -> Vectors:
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
        if isinstance(value, list):
            numbers = np.asarray(value, dtype=np.float32)
            # A vector for each token is not one of the text, but a list of one vector is.
            if numbers.ndim == 1 or numbers.shape[:-1] == (1,):
                return numbers.reshape(-1)
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadResponse("an embedding is not a list of numbers") from error
    raise BadResponse("an embedding is not a list of numbers")
