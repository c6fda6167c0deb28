"""Pages that fit into a message."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic_core import to_json

T = TypeVar("T")

# Half of the smallest message limit that clients have by default.
_MAX_BYTES = 2 * 1024 * 1024
_READ_AT_ONCE = 20


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


async def read_fitting(
    read: Callable[[T | None, int], Awaitable[Sequence[T]]], size: int, content: Callable[[T], Any]
) -> tuple[Sequence[T], bool]:
    """Return a page that fits into a message, and whether there is more.

    `read` returns what follows the last one read (None: from the page's beginning), as many as asked for at most. It is
    asked for a few at a time: a whole page of large ones would be far more than a message, and might be all the memory.
    """
    taken: list[T] = []
    used = 0
    while True:
        limit = min(size + 1 - len(taken), _READ_AT_ONCE)
        portion = await read(taken[-1] if taken else None, limit)
        for item in portion:
            used += len(to_json(content(item)))
            if len(taken) == size or (used > _MAX_BYTES and taken):
                return taken, True
            taken.append(item)
        if len(portion) < limit:
            return taken, False
