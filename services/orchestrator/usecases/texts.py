"""Texts that databases cannot keep."""

from collections.abc import Iterator, Mapping
from typing import Any

from services.common.errors import FieldViolation, InvalidArgument

UNSTORABLE = "contains the character U+0000, which cannot be stored; remove it"


def unstorable(path: str, value: Any) -> Iterator[str]:
    """Yield the path of every text in a JSON value that holds U+0000, keys included."""
    if isinstance(value, str):
        if "\0" in value:
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if "\0" in key:
                yield path
            yield from unstorable(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from unstorable(f"{path}[{index}]", item)


def refuse_unstorable(texts: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for texts that hold U+0000, by the path of each."""
    violations = [FieldViolation(path, UNSTORABLE) for name, value in texts.items() for path in unstorable(name, value)]
    if violations:
        raise InvalidArgument(
            "; ".join(f"{fault.field}: {fault.description}" for fault in violations), violations=violations
        )
