"""Whether a text has anything in it that can be seen or heard."""

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
"""Controls, format characters (U+200B, U+FEFF and the like) and white space."""


def has_visible_text(text: str) -> bool:
    """Return whether a text holds more than white space and characters without width."""
    return any(unicodedata.category(character) not in _UNSEEN for character in text)
