"""When a list is read again for a call whose tool differs from it."""

import time
from collections.abc import Callable, Hashable

from services.common.cache import ExpiringCache
from services.orchestrator.tool_gateway.ports import ToolCallRequest

_KEPT = 1024
_SECONDS = 5.0


class Rereads:
    """Lets a list be read again once in some seconds for one tool that is meant.

    A call that is refused may be repeated at any rate. One that means the tool as it was accepted since is another one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._read: ExpiringCache[Hashable, bool] = ExpiringCache(_KEPT, clock)

    def begin(self, of: Hashable, request: ToolCallRequest) -> bool:
        """Return whether the list with the key `of` is read again now for a call; the caller does so then."""
        key = (of, request.tool, request.tool_hash)
        if self._read.get(key):
            return False
        self._read.put(key, True, self._clock() + _SECONDS)
        return True
