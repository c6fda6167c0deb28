"""Connections to databases of groups, while these do not answer."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from services.common.clock import utc_now
from services.common.errors import Unavailable
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
    async with asyncio.timeout(60), lines.turn("sales", 3600.0, lambda: False):
        assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await pools.close()


async def test_who_finds_too_many_databases_in_use_takes_out_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, now, moment = cast("Any", Silent()), 0.0, utc_now()
    pools = ConnectionPools(silent, silent, replace(_LIMITS, databases=2), clock=lambda: now)

    def backend(group: str) -> MemoryBackend:
        config = PgvectorConfig(f"{group}.example.com", 5432, "d", "s", "user", TlsMode.DISABLE, "", "secret")
        return MemoryBackend(group, group, "database", None, frozenset(), moment, moment, pgvector=config)

    async def hold(of: MemoryBackend) -> None:
        async with pools.connection(of):
            raise AssertionError

    idle = asyncio.create_task(hold(backend("idle")))
    await asyncio.sleep(0)
    idle.cancel()
    await asyncio.gather(idle, return_exceptions=True)
    used = asyncio.create_task(hold(backend("sales")))
    await asyncio.sleep(0)
    now = 3600.0
    another = replace(backend("sales"), id="other")
    with pytest.raises(Unavailable, match="of your group"):
        await hold(another)
    assert len(pools) == 2, "the pool whose time is over is closed with the next ones"
    await pools.close_idle()
    assert len(pools) == 1
    used.cancel()
    await asyncio.gather(used, return_exceptions=True)
    await pools.close()
