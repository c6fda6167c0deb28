"""Fair shares of an upstream between groups."""

import asyncio
from dataclasses import dataclass

from services.common.errors import ResourceExhausted
from services.common.group_lines import wait_without_turn

_Key = tuple[str, str]
"""Origin and group."""


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

    def slot(self, origin: str, group_id: str) -> "_Slot":
        """Hold one of the group's slots at an upstream, in `async with`.

        Raises:
            ResourceExhausted: UPSTREAM_SHARE_EXCEEDED, none became free in time.
        """
        return _Slot(self, (origin, group_id))

    async def take(self, key: _Key) -> None:
        """Take a slot; see `slot`."""
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = _Share(asyncio.Semaphore(self._most))
        share.callers += 1
        try:
            if share.slots.locked():
                wait_without_turn()
                async with asyncio.timeout(self._wait_seconds):
                    await share.slots.acquire()
            else:
                await share.slots.acquire()
        except TimeoutError:
            self._leave(key, share)
            origin = key[0]
            raise ResourceExhausted(
                f"your group has {self._most} calls under way at {origin}, as many as it may have at once; "
                "wait for some of them to end, or send fewer at once",
                reason="UPSTREAM_SHARE_EXCEEDED",
                metadata={"origin": origin, "limit": str(self._most)},
                retry_after=max(1.0, self._wait_seconds),
            ) from None
        except BaseException:
            self._leave(key, share)
            raise

    def give_back(self, key: _Key) -> None:
        """Give a slot back."""
        share = self._shares[key]
        share.slots.release()
        self._leave(key, share)

    def _leave(self, key: _Key, share: _Share) -> None:
        share.callers -= 1
        if not share.callers:
            del self._shares[key]


class _Slot:
    """A slot while it is held. A generator would cost every call more than the slot does."""

    __slots__ = ("_key", "_shares")

    def __init__(self, shares: GroupShares, key: _Key) -> None:
        self._shares = shares
        self._key = key

    async def __aenter__(self) -> None:
        await self._shares.take(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._shares.give_back(self._key)
