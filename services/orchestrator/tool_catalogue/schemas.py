"""Schemas of settings and arguments."""

from typing import Any


def object_schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """Return the JSON schema of an object with these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
