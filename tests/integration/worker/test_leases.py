"""Who lives is decided by the database's clock alone."""

from services.common.db.database import Database
from services.orchestrator.repositories.leases import LeaseRepository
from services.orchestrator.worker.host.run_store import RunStore


async def test_a_lease_lives_by_the_databases_clock(database: Database, store: RunStore) -> None:
    await store.renew_lease("lives", "h", 1, 60)
    await store.renew_lease("leaves", "h", 2, 60)
    await store.renew_lease("died", "h", 3, -1)
    assert await store.dead_hosts({"lives", "unknown"}) == {"died", "unknown"}
    await store.give_up_lease("leaves")
    assert await store.dead_hosts(set()) == {"died", "leaves"}
    await store.renew_lease("died", "h", 3, 60)
    await store.forget_hosts({"died", "leaves", "lives"})
    async with database.read() as connection:
        assert [lease.executor_id for lease in await LeaseRepository(connection).alive()] == ["lives", "died"]
