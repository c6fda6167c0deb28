"""Pages that fit into a message."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic_core import to_json

T = TypeVar("T")

# Half of the smallest message limit that clients have by default.
_MAX_BYTES = 2 * 1024 * 1024


def fitting(found: Sequence[T], size: int, content: Callable[[T], Any]) -> Sequence[T]:
    """Return the first of `found`, at most `size` and no more than a message holds, but one at least.

    `content` gives what may be large of one, as a JSON value.
    """
    taken = used = 0
    for item in found[:size]:
        used += len(to_json(content(item)))
        if used > _MAX_BYTES and taken:
            break
        taken += 1
    return found[:taken]
