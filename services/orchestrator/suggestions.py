"""Names that somebody may have meant."""

import difflib
from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a half sentence that names what `name` may have meant, or all there is when that is not much."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return "did you mean " + " or ".join(f'"{candidate}"' for candidate in near) + "?"
    if names and len(names) <= 10:
        return "there is " + ", ".join(f'"{candidate}"' for candidate in names)
    return "check the spelling"
