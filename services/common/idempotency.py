"""Comparison of repeated requests that carry one request_id."""

import hashlib

from google.protobuf.message import Message


def request_hash(message: Message, *ignored_fields: str) -> str:
    """Return the SHA-256 (hex) of a request's content, without the named top-level fields."""
    if ignored_fields:
        copy = type(message)()
        copy.CopyFrom(message)
        for field in ignored_fields:
            copy.ClearField(field)
        message = copy
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
