"""How many tokens of a conversation a model takes."""

import threading
from typing import Any

_MOST_REFUSALS = 8
"""How often a model may refuse a conversation as too long in one attempt at a task."""


class Window:
    """How many tokens a model takes, as far as that is known: what it refuses teaches."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._refusals = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Window":
        return self

    def refused(self, tokens: int, window: int) -> bool:
        """Note that a request of `tokens`, made when `window` was known, was refused; return whether fewer may help.

        Requests made beside each other count once.
        """
        with self._lock:
            if self.tokens == window:
                self._refusals += 1
                if tokens <= window:
                    self.tokens = max(1, tokens // 2)
            return self._refusals <= _MOST_REFUSALS
