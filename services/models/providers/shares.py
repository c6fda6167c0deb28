"""Fair shares of an upstream between groups."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.common.errors import ResourceExhausted


@dataclass(slots=True)
class _Share:
    slots: asyncio.Semaphore
    callers: int = 0
    """Calls that hold a slot or wait for one."""


class GroupShares:
    """Bounds the calls that one group has under way at one upstream.

    A call past the bound waits for its own group's calls, never for another group's, and not for long.
    """

    def __init__(self, *, most: int, wait_seconds: float) -> None:
        """`most` calls of a group may be under way at an upstream; others wait up to `wait_seconds`."""
        self._most = most
        self._wait_seconds = wait_seconds
        self._shares: dict[tuple[str, str], _Share] = {}

    @contextlib.asynccontextmanager
    async def slot(self, origin: str, group_id: str) -> AsyncIterator[None]:
        """Hold one of the group's slots at an upstream.

        Raises:
            ResourceExhausted: UPSTREAM_SHARE_EXCEEDED, none became free in time.
        """
        key = (origin, group_id)
        share = self._shares.setdefault(key, _Share(asyncio.Semaphore(self._most)))
        share.callers += 1
        try:
            try:
                if share.slots.locked():
                    async with asyncio.timeout(self._wait_seconds):
                        await share.slots.acquire()
                else:
                    await share.slots.acquire()
            except TimeoutError:
                raise ResourceExhausted(
                    f"your group has {self._most} calls under way at {origin}, as many as it may have at once; "
                    "wait for some of them to end, or send fewer at once",
                    reason="UPSTREAM_SHARE_EXCEEDED",
                    metadata={"origin": origin, "limit": str(self._most)},
                    retry_after=max(1.0, self._wait_seconds),
                ) from None
            try:
                yield
            finally:
                share.slots.release()
        finally:
            share.callers -= 1
            if not share.callers:
                del self._shares[key]
