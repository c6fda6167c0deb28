"""Forms and addresses in questions of sources: what may be put before people."""

import re
from collections.abc import Mapping
from typing import Any

from services.common.egress import origin_of
from services.orchestrator.tool_gateway.adapters.foreign import shown

_MAX_FIELDS = 50
_MAX_CHOICES = 200
_MAX_FIELD_TEXT_BYTES = 1024
_MAX_URL_BYTES = 2048
_MAX_NAME_BYTES = 128

_PRIMITIVES = frozenset({"string", "number", "integer", "boolean"})
_SECRET = re.compile(
    r"pass[ _-]?(word|phrase|code)|\bpwd\b|secret|api[ _-]?key|access[ _-]?key|private[ _-]?key|auth[ _-]?token"
    r"|access[ _-]?token|bearer|credential|\bpin\b|\bcvv\b|\bcvc\b|\botp\b|card[ _-]?number",
    re.IGNORECASE,
)
_WARNS = re.compile(r"\b(?:not|never|no|without)\b|n['\u2019]t\b", re.IGNORECASE)
_TEXTS = ("title", "description")
_KEPT = (
    "type", "format", "default", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip


class BadQuestion(ValueError):
    """A question cannot be shown; the text says what it has to be."""


class AsksForSecret(Exception):
    """A form asks for what is no matter of a form; the text names the field."""


def shown_url(url: Any) -> str:
    """Return the address of a page that people are asked to visit.

    Raises:
        BadQuestion: it is not one to be shown.
    """
    if not isinstance(url, str) or len(url.encode()) > _MAX_URL_BYTES or shown(url, _MAX_URL_BYTES) != url:
        raise BadQuestion(f"the url has to be a text of at most {_MAX_URL_BYTES} bytes")
    if not url.lower().startswith("https://") or origin_of(url) is None:
        raise BadQuestion("the url has to be an https address without a user name")
    return url


def form_of(schema: Any) -> dict[str, Any]:
    """Return what is used of the schema of a form: flat, with texts, numbers, booleans and choices.

    Raises:
        AsksForSecret: a field looks like a password.
        BadQuestion: it is no form.
    """
    fields = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(fields, dict) or schema.get("type", "object") != "object":
        raise BadQuestion("the schema of a form has to be an object with properties")
    if len(fields) > _MAX_FIELDS:
        raise BadQuestion(f"a form has at most {_MAX_FIELDS} fields")
    required = schema.get("required")
    return {
        "type": "object",
        "properties": {name: _field(name, field) for name, field in fields.items()},
        "required": [name for name in required if name in fields] if isinstance(required, list) else [],
    }


def _field(name: str, field: Any) -> dict[str, Any]:
    if not isinstance(field, dict):
        raise BadQuestion("each property of the schema of a form has to be an object")
    kind = field.get("type", "string")
    if not 0 < len(name.encode()) <= _MAX_NAME_BYTES or shown(name, _MAX_NAME_BYTES) != name:
        raise BadQuestion("names of fields have 1 to 128 bytes, all of them visible")
    texts = {key: _short(field[key]) for key in _TEXTS if isinstance(field.get(key), str)}
    if field.get("format") == "password" or any(_asks_for_secret(text) for text in (_worded(name), *texts.values())):
        raise AsksForSecret(name)
    kept = {key: field[key] for key in _KEPT if key in field and _is_plain(field[key])} | texts | {"type": kind}
    if kind == "array":
        # A choice of several: the only array that a form has.
        return kept | {"items": _choices(field.get("items"), required=True)}
    if not isinstance(kind, str) or kind not in _PRIMITIVES:
        raise BadQuestion("fields of a form are texts, numbers, booleans or choices")
    return kept | _choices(field, required=False)


def _choices(field: Any, *, required: bool) -> dict[str, Any]:
    """Return what a field may be chosen from, in the spellings that servers use."""
    field = field if isinstance(field, dict) else {}
    for key in ("enum", "oneOf", "anyOf"):
        values = field.get(key)
        if values is None:
            continue
        if not isinstance(values, list) or not 0 < len(values) <= _MAX_CHOICES:
            raise BadQuestion(f"a choice has 1 to {_MAX_CHOICES} values")
        if key == "enum":
            return {"enum": [_choice(value) for value in values]} | _names_of(field, len(values))
        return {key: [_named_choice(value) for value in values]}
    if required:
        raise BadQuestion("an array in a form has to be a choice: items with enum or anyOf")
    return {}


def _names_of(field: Mapping[str, Any], count: int) -> dict[str, Any]:
    names = field.get("enumNames")
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        return {}
    return {"enumNames": [_short(name) for name in names]}


def _choice(value: Any) -> Any:
    if not _is_plain(value) or isinstance(value, list):
        raise BadQuestion("the values of a choice are texts, numbers or booleans")
    return value


def _named_choice(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or "const" not in value:
        raise BadQuestion("each value of a choice has to have const, and may have title")
    title = value.get("title")
    return {"const": _choice(value["const"])} | ({"title": _short(title)} if isinstance(title, str) else {})


def _is_plain(value: Any) -> bool:
    """Whether a value is a primitive of moderate size, or a few of them."""
    if isinstance(value, list):
        return len(value) <= _MAX_CHOICES and all(_is_plain(item) and not isinstance(item, list) for item in value)
    if isinstance(value, str):
        return len(value) <= _MAX_FIELD_TEXT_BYTES
    return isinstance(value, int | float | bool)


def _short(text: str) -> str:
    return shown(text, _MAX_FIELD_TEXT_BYTES)


def _asks_for_secret(text: str) -> bool:
    """Whether a text names a secret, other than to say that none is to be given."""
    return any(not _WARNS.search(text[max(0, found.start() - 60) : found.start()]) for found in _SECRET.finditer(text))


def _worded(name: str) -> str:
    """Return the words of a name such as `userPin`, apart."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name)
