"""Connections to databases of groups, while these do not answer."""

import asyncio
from typing import Any

from services.common.clock import utc_now
from services.common.group_lines import GroupLines
from services.memory.domain.backends import MemoryBackend, PgvectorConfig, TlsMode
from services.memory.stores.pgvector.logins import Login
from services.memory.stores.pgvector.pools import ConnectionPools, PoolLimits

_LIMITS = PoolLimits(connections=1, databases=1, group_databases=1, idle_seconds=60.0, wait_seconds=60.0)


class Silent:
    """Has a login, and waits for a server that does not answer."""

    async def find(self, config: PgvectorConfig) -> Login:
        return Login(config.user, "password")

    async def open(self, *_: object) -> Any:
        return await asyncio.Future()


async def test_who_waits_for_a_database_of_its_group_holds_no_turn() -> None:
    silent: Any = Silent()
    pools, lines = ConnectionPools(silent, silent, _LIMITS), GroupLines(1, alone=1)
    config = PgvectorConfig("db.example.com", 5432, "d", "s", "user", TlsMode.DISABLE, "", "secret")
    now = utc_now()
    backend = MemoryBackend("b", "sales", "database", None, frozenset(), now, now, pgvector=config)

    async def call() -> None:
        async with lines.turn("sales", 3600.0, lambda: False), pools.connection(backend):
            raise AssertionError

    waiting = asyncio.create_task(call())
    await asyncio.sleep(0)
    async with asyncio.timeout(30), lines.turn("sales", 3600.0, lambda: False):
        assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await pools.close()
