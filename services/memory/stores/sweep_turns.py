"""Which saves remove what has expired: in a group's own store nothing can be done without a caller's credential."""

from typing import Final

from cachetools import TTLCache

_KEPT: Final = 10_000


class SweepTurns:
    """Gives a turn once in a while for each backend's namespace or crew."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long a turn lasts, in which there is no other."""
        self._taken: TTLCache[tuple[str, str], bool] = TTLCache(_KEPT, seconds)

    def take(self, place: tuple[str, str]) -> bool:
        """Take the turn of a place; return whether there was one."""
        if place in self._taken:
            return False
        self._taken[place] = True
        return True

    def give_back(self, place: tuple[str, str]) -> None:
        """Let the next save go on with what this one has left."""
        self._taken.pop(place, None)
