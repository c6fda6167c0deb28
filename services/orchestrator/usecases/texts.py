"""Texts that databases cannot keep."""

from collections.abc import Iterator, Mapping
from typing import Any

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
