"""The dataclasses of this package as JSON documents, in which crews, outputs and errors are stored.

Fields may be added with a default, never renamed: a row that one release has written is read by the next and by the
previous one.
"""

from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # Building one takes milliseconds.
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_document(value: Any) -> Any:
    """Return the JSON document of one of this package's dataclasses."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_document(kind: type[T], document: Any) -> T:
    """Return the dataclass `kind` of a document; fields it does not know are left out."""
    value: T = _adapter(kind).validate_python(document)
    return value
