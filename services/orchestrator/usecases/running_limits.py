"""Keeps the limits on running executions where worker hosts see them in the statement that takes executions."""

from collections.abc import Sequence
from typing import Protocol

from services.common.db.database import Database
from services.common.identity.group_limits import GroupLimits
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.running_limits import (
    RunningLimitRepository,
    read_one_waiting,
    read_open_groups,
    read_running_limits,
)

_ASKED_AT_ONCE = 1000
_LOOK_SECONDS = 2.0
_IDLE_SECONDS = 30.0
"""While nothing is open. What starts meanwhile comes with its group's limits; they may change until then."""


class LimitSource(Protocol):
    """What auth knows of groups."""

    async def limits_of(self, group_ids: Sequence[str]) -> Sequence[GroupLimits]:
        """Return the limits of groups, in their order.

        Raises:
            CoxswainError: auth cannot be asked.
        """
        ...


class RunningLimits:
    """Asks auth for the limits of groups with executions that have not ended; nothing is asked while there is none.

    Those that nobody has to take now count as well: hosts take what wakes at once.
    """

    def __init__(self, database: Database, source: LimitSource, bus: HintBus) -> None:
        self._database = database
        self._source = source
        self._bus = bus
        self.seconds_to_look = _LOOK_SECONDS
        """How long to wait until `once` is called again."""

    async def once(self) -> None:
        """Store what has changed. Replicas may do it at once.

        Raises:
            Unavailable: auth or the database does not answer.
        """
        group_ids = await read_open_groups(self._database)
        self.seconds_to_look = _LOOK_SECONDS if group_ids else _IDLE_SECONDS
        if not group_ids:
            return
        known = await read_running_limits(self._database)
        for start in range(0, len(group_ids), _ASKED_AT_ONCE):
            chunk = group_ids[start : start + _ASKED_AT_ONCE]
            limits = dict(zip(chunk, await self._source.limits_of(chunk), strict=True))
            await self._store({name: each.max_running_executions for name, each in limits.items()}, known)

    async def _store(self, now: dict[str, int | None], known: dict[str, int]) -> None:
        changed = {name: limit for name, limit in now.items() if limit is not None and known.get(name) != limit}
        lifted = [name for name, limit in now.items() if limit is None and name in known]
        if changed or lifted:
            async with self._database.write() as connection:
                repository = RunningLimitRepository(connection)
                if changed:
                    await repository.set(changed)
                if lifted:
                    await repository.remove(lifted)
        for execution_id in await read_one_waiting(self._database, [*changed, *lifted]):
            self._bus.publish(Hint(HintKind.EXECUTION_READY, execution_id))
