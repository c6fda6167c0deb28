"""The death of a host is told from the breaking of its connection, and from a restart of the database."""

from typing import cast

from services.orchestrator.domain.lease import LeaseView
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.worker.host.dead_hosts import DeadHosts


def lease(executor_id: str, key: int | None = 1, *, locked: bool = True, expired: bool = False) -> LeaseView:
    return LeaseView(executor_id, expired=expired, lock_key=key, locked=locked)


ME = lease("me", 7)


class Leases:
    """What each look finds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.found: list[LeaseView] = []
        self.hosts = DeadHosts(cast("LeaseStore", self), "me", clock=lambda: self.now)

    async def all(self) -> list[LeaseView]:
        return self.found

    async def look(self, *found: LeaseView, holders: tuple[str, ...] = ()) -> set[str]:
        self.found = list(found)
        return set((await self.hosts.find(holders)).dead)


async def test_a_lease_that_ran_out_is_enough_and_this_host_never_counts_itself_dead() -> None:
    leases = Leases()
    hung = lease("hung", expired=True)
    assert await leases.look(lease("me", expired=True, locked=False), hung, lease("lives")) == {"hung"}
    assert (await leases.hosts.find()).leases == (hung,)
    assert await leases.look(ME, lease("lives"), holders=("me", "lives", "forgotten")) == {"forgotten"}


async def test_a_lock_that_is_missing_twice_proves_a_death() -> None:
    leases = Leases()
    assert await leases.look(ME, lease("killed")) == set()
    assert await leases.look(ME, lease("killed", locked=False)) == set()
    assert await leases.look(ME, lease("killed", locked=False)) == {"killed"}


async def test_a_lock_that_is_missing_once_calls_for_a_second_look() -> None:
    leases = Leases()
    for found, suspects in ((lease("killed"), False), (lease("killed", locked=False), True)):
        leases.found = [ME, found]
        assert (await leases.hosts.find()).suspects is suspects
    assert not (await leases.hosts.find()).suspects


async def test_a_host_that_takes_a_new_lock_lives() -> None:
    leases = Leases()
    assert await leases.look(ME, lease("reconnects", 1, locked=False)) == set()
    # Its row names the new lock a moment later than it takes it, or the new connection is lost as well.
    assert await leases.look(ME, lease("reconnects", 2, locked=False)) == set()
    assert await leases.look(ME, lease("reconnects", 2)) == set()
    assert await leases.look(ME, lease("reconnects", 2, locked=False)) == set()


async def test_hosts_without_a_lock_live_by_their_lease_alone() -> None:
    leases = Leases()
    for _ in range(3):
        assert await leases.look(ME, lease("pooled", None, locked=False)) == set()


async def test_who_has_no_lock_of_its_own_cannot_tell_whether_others_have() -> None:
    killed = lease("killed", locked=False)
    for own in (None, lease("me", None, locked=False), lease("me", 7, locked=False)):
        leases = Leases()
        for _ in range(3):
            assert await leases.look(*([own] if own else []), killed) == set()


async def test_after_a_restart_of_the_database_the_living_get_time_to_take_their_locks_again() -> None:
    leases = Leases()
    assert await leases.look(ME, lease("slow"), lease("killed")) == set()
    missing = lease("slow", locked=False), lease("killed", locked=False)
    assert await leases.look(lease("me", 7, locked=False), *missing) == set()
    for _ in range(3):
        assert await leases.look(lease("me", 8), *missing) == set()
    leases.now += 60
    assert await leases.look(lease("me", 8), lease("slow", 2), missing[1]) == set()
    assert await leases.look(lease("me", 8), lease("slow", 2), missing[1]) == {"killed"}
