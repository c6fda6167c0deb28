"""Which hosts have died: those that lost their lease, and at once those whose process is gone."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.orchestrator.domain.lease import LeaseView
from services.orchestrator.lease_store import LeaseStore

_SETTLED_SECONDS = 10.0
"""How long hosts get to take their locks anew after the database has lost them all."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one look has found."""

    dead: frozenset[str]
    leases: tuple[LeaseView, ...]
    """Those that there are of the dead."""
    suspects: bool
    """Whether others may be dead: the next look will tell."""
    elders: int
    """How many living hosts started before this one."""


class DeadHosts:
    """Finds dead hosts by looking again and again.

    A missing lock proves a death only in the second look in a row, and only to a host whose own lock both looks have
    found: a database that was started again has lost the locks of the living too. They take new ones, within a moment
    if nothing but their connection broke. Whoever is wrongly taken for dead notices, and can write nothing meanwhile.
    """

    def __init__(self, leases: LeaseStore, executor_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._executor_id = executor_id
        self._clock = clock
        self._own_lock: int | None = None
        self._settled_at = 0.0
        self._missing: frozenset[LeaseView] = frozenset()

    async def find(self, holders: Collection[str] = ()) -> Findings:
        """Look once; those of `holders` that have no lease are dead as well."""
        leases = {lease.executor_id: lease for lease in await self._leases.all()}
        own = leases.pop(self._executor_id, None)
        missing = self._without_lock(leases.values()) if self._can_judge(own) else frozenset()
        dead = tuple(lease for lease in leases.values() if lease.expired or lease in missing & self._missing)
        suspects = bool(missing - self._missing)
        self._missing = missing
        unknown = set(holders) - leases.keys() - {self._executor_id}
        living = (lease for lease in leases.values() if not lease.expired and lease not in missing)
        elders = sum(_seniority(lease) < _seniority(own) for lease in living) if own is not None else 0
        return Findings(frozenset(lease.executor_id for lease in dead) | unknown, dead, suspects, elders)

    def _can_judge(self, own: LeaseView | None) -> bool:
        if own is None or own.lock_key is None or not own.locked:
            return False
        if own.lock_key != self._own_lock:
            # The first one counts at once: this host has just started, which took longer than taking a lock again.
            self._settled_at = 0.0 if self._own_lock is None else self._clock() + _SETTLED_SECONDS
            self._own_lock = own.lock_key
        return self._clock() >= self._settled_at

    @staticmethod
    def _without_lock(leases: Collection[LeaseView]) -> frozenset[LeaseView]:
        return frozenset(lease for lease in leases if lease.lock_key is not None and not lease.locked)


def _seniority(lease: LeaseView) -> tuple[float, str]:
    return lease.started_at, lease.executor_id
