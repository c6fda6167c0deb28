"""Connections to a database are few, and groups get them in turn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.common.db.failures import unavailable
from services.common.group_turns import GroupTurns, group_of_work

_LONGEST_WAIT_SECONDS = 30.0


class ConnectionTurns:
    """The connections of one pool."""

    def __init__(self, connections: int | None) -> None:
        """None: there are as many as are asked for."""
        self._turns = None if connections is None else GroupTurns(connections)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """Hold one, once there is one and it is the turn of the group that is worked for.

        Raises:
            Unavailable: that took too long.
        """
        if self._turns is None:
            yield
            return
        try:
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                await self._turns.take(group_of_work())
        except TimeoutError:
            raise unavailable() from None
        try:
            yield
        finally:
            self._turns.release()
