"""JSON for what DBOS stores; its default is pickle, which would run code from the database."""

import json
from typing import Any

from dbos import Serializer

_EXCEPTION = "__exception__"


class SegmentFailed(Exception):
    """An exception that was stored, by its type's name and its text."""


class JsonSerializer(Serializer):
    """Stores arguments and results as JSON, and exceptions by name: one that cannot be stored would leave its segment
    pending for ever.
    """

    def name(self) -> str:
        """Return the name rows are marked with."""
        return "coxswain_json"

    def serialize(self, data: Any) -> str:
        """Return the text to store."""
        return json.dumps(data, default=_plain, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:
        """Return what was stored."""
        return json.loads(serialized_data, object_hook=_restore)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseException):
        return {_EXCEPTION: type(value).__name__, "message": str(value)}
    raise TypeError(f"{type(value).__name__} is not stored with segments")


def _restore(document: dict[str, Any]) -> Any:
    if _EXCEPTION in document:
        return SegmentFailed(f"{document[_EXCEPTION]}: {document['message']}")
    return document
