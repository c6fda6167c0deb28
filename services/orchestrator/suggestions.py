"""Names that somebody may have meant."""

import contextlib
import difflib
import functools
import heapq
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

# Names come from callers and from strangers: comparing whole texts with all of hundreds would take seconds.
_COMPARED_CHARACTERS = 64
_COMPARED_NAMES = 8
_MOST_SUGGESTIONS = 20

_left: ContextVar[list[None] | None] = ContextVar("coxswain_suggestions_left", default=None)


@contextlib.contextmanager
def few_suggestions() -> Iterator[None]:
    """Look for near names only the first times in the block: an answer may find fault with thousands of names."""
    reset = _left.set([None] * _MOST_SUGGESTIONS)
    try:
        yield
    finally:
        _left.reset(reset)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a half sentence that names what `name` may have meant, or all there is when that is not much.

    It takes milliseconds for hundreds of names, whatever they are; see `few_suggestions` for many of them.
    """
    left = _left.get()
    if left is not None:
        if not left:
            return "check the spelling"
        left.pop()
    names = list(known)
    near = _near(name, names)
    if near:
        return "did you mean " + " or ".join(f'"{candidate}"' for candidate in near) + "?"
    if names and len(names) <= 10:
        return "there is " + ", ".join(f'"{candidate}"' for candidate in names)
    return "check the spelling"


def _near(name: str, names: list[str]) -> list[str]:
    pairs = _pairs(name)
    # Those that share most pairs of letters for their length; only they are compared letter by letter.
    likely = heapq.nlargest(
        _COMPARED_NAMES, names, key=lambda candidate: len(pairs & (own := _pairs(candidate))) / (len(own) + len(pairs))
    )
    cut = {candidate[:_COMPARED_CHARACTERS]: candidate for candidate in reversed(likely)}
    return [cut[found] for found in difflib.get_close_matches(name[:_COMPARED_CHARACTERS], cut, n=3)]


@functools.lru_cache(16_384)
def _pairs(name: str) -> frozenset[str]:
    text = f" {name[:_COMPARED_CHARACTERS]} "
    return frozenset(text[at : at + 2] for at in range(len(text) - 1))
