"""Names that somebody may have meant."""

import difflib
from collections.abc import Iterable

LIKENESS_OF_NAMES = 0.6
# Names may come from strangers: comparing whole texts with all of a thousand would take seconds.
_COMPARED_CHARACTERS = 64


def near_names(name: str, known: Iterable[str], most: int = 3, likeness: float = LIKENESS_OF_NAMES) -> list[str]:
    """Those that are spelled much like a name, in lower case or not; the nearest first.

    The likeness that is asked for goes from 0 to 1.
    """
    folded = {candidate.casefold()[:_COMPARED_CHARACTERS]: candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold()[:_COMPARED_CHARACTERS], folded, most, likeness)
    return [folded[candidate] for candidate in near]


def did_you_mean(near: Iterable[str]) -> str:
    """A question that names what may have been meant; empty where nothing is near."""
    named = " or ".join(map(repr, near))
    return f"did you mean {named}?" if named else ""
