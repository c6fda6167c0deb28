"""Who lives is decided by the database's clock alone."""

from services.common.db.database import Database
from services.orchestrator.repositories.leases import Leases


async def test_a_lease_lives_by_the_databases_clock(database: Database) -> None:
    leases = Leases(database)
    await leases.renew("lives", "h", 1, 60)
    await leases.renew("leaves", "h", 2, 60)
    await leases.renew("died", "h", 3, -1)
    assert await leases.dead({"lives", "unknown"}) == {"died", "unknown"}
    await leases.give_up("leaves")
    assert await leases.dead(set()) == {"died", "leaves"}
    await leases.renew("died", "h", 3, 60)
    await leases.forget({"died", "leaves", "lives"})
    assert [lease.executor_id for lease in await leases.alive()] == ["lives", "died"]
