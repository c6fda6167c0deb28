"""What groups with limits have used, kept up to date in memory."""

import asyncio
import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import CoxswainError
from services.models.domain.budget import Period, Scope, Spending, Sums, scopes_of
from services.models.domain.usage import UsageRecord
from services.models.repositories.usage import read_sums
from services.models.usecases.usage_recorder import UsageRecorder

# Groups that have not called for so long leave; their next call reads their sums anew.
_IDLE_SECONDS = 60.0
_GROUPS_AT_ONCE = 100


@dataclass(slots=True)
class _Group:
    scopes: dict[Scope, Spending] = field(default_factory=dict)
    asked_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Reading:
    """One reading that has not begun yet, for all who ask until it does."""

    wanted: dict[str, list[Scope]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    found: dict[str, dict[Scope, Spending]] = field(default_factory=dict)
    failure: CoxswainError | None = None


class Ledger:
    """Running sums: no call waits for records to be stored, nor adds up those that are.

    A sum is read once, together with the records that wait to be stored, and each later call of this process is added.
    Where other processes write too, `refresh` reads the sums again.
    """

    def __init__(self, database: Database, recorder: UsageRecorder) -> None:
        self._database = database
        self._recorder = recorder
        self._groups: dict[str, _Group] = {}
        self._next_reading: _Reading | None = None
        self._reading = asyncio.Lock()
        self._background = BackgroundTasks()

    async def spending(self, group_id: str, scopes: Sequence[Scope]) -> list[Spending]:
        """Return what scopes of a group have used.

        Raises:
            Unavailable: the database does not answer.
        """
        group = self._groups.setdefault(group_id, _Group())
        group.asked_at = time.monotonic()
        if any(scope not in group.scopes for scope in scopes):
            await self._read({group_id: [*group.scopes, *scopes]})
            # It may have left meanwhile.
            group = self._groups.setdefault(group_id, group)
        return [group.scopes[scope] for scope in scopes]

    async def read(self, group_id: str, scope: Scope) -> Spending:
        """Return what a scope has used, with what other processes have stored.

        Anybody may ask for scopes that no limit is about: those are not kept up to date from then on. However many ask
        at once, of whatever groups, they get one reading that begins after they have asked: no group keeps another one,
        or the storing of usage, waiting for its own questions.

        Raises:
            Unavailable: the database does not answer.
        """
        reading = self._next_reading
        if reading is None or reading.task is None:
            reading = self._next_reading = _Reading()
            reading.task = self._background.start(self._read_for_all(reading))
        scopes = reading.wanted.setdefault(group_id, [])
        if scope not in scopes:
            scopes.append(scope)
        await asyncio.shield(reading.task)
        if reading.failure is not None:
            # One exception raised for many callers would collect the traceback of each.
            raise copy.copy(reading.failure)
        return reading.found[group_id][scope]

    async def _read_for_all(self, reading: _Reading) -> None:
        async with self._reading:
            # Who asks from now on may ask for what is used from now on.
            self._next_reading = None
            group_ids = list(reading.wanted)
            try:
                for start in range(0, len(group_ids), _GROUPS_AT_ONCE):
                    chunk = group_ids[start : start + _GROUPS_AT_ONCE]
                    reading.found |= await self._read({name: reading.wanted[name] for name in chunk}, keep=False)
            except CoxswainError as failure:
                reading.failure = failure

    def add(self, record: UsageRecord) -> Iterable[tuple[Scope, Spending]]:
        """Count a call, and return the scopes it was counted in."""
        group = self._groups.get(record.group_id)
        if group is None:
            return ()
        touched = [
            (scope, spending)
            for scope in scopes_of(record.model, record.subject)
            if (spending := group.scopes.get(scope)) is not None
        ]
        for _, spending in touched:
            spending.add(record.called_at, record.usage)
        return touched

    async def refresh(self) -> None:
        """Read the sums again of groups that have called lately.

        Raises:
            Unavailable: the database does not answer.
        """
        self.forget_idle()
        group_ids = list(self._groups)
        for start in range(0, len(group_ids), _GROUPS_AT_ONCE):
            chunk = group_ids[start : start + _GROUPS_AT_ONCE]
            await self._read({name: list(self._groups[name].scopes) for name in chunk if name in self._groups})

    def known(self) -> list[tuple[str, Scope, Spending]]:
        """Return what is known of groups that have called lately."""
        return [
            (group_id, scope, spending)
            for group_id, group in self._groups.items()
            for scope, spending in group.scopes.items()
        ]

    def forget_idle(self) -> None:
        """Forget groups that have not called for a while."""
        limit = time.monotonic() - _IDLE_SECONDS
        for group_id, group in list(self._groups.items()):
            if group.asked_at < limit and all(spending.idle for spending in group.scopes.values()):
                del self._groups[group_id]

    async def close(self) -> None:
        """End what is being read."""
        await self._background.stop()

    async def _read(self, wanted: dict[str, list[Scope]], *, keep: bool = True) -> dict[str, dict[Scope, Spending]]:
        """Read sums again, and return them; with `keep` those that were not known are kept up to date from now on."""
        async with self._recorder.standing_still():
            moment = utc_now()
            cells = await read_sums(self._database, list(wanted), moment)
            # Nothing is awaited from here on: what is recorded meanwhile waits, and is counted once.
            read: dict[str, dict[Scope, Spending]] = {}
            for group_id, scopes in wanted.items():
                group = self._groups.get(group_id) or _Group(asked_at=time.monotonic())
                read[group_id] = {scope: group.scopes.get(scope) or Spending() for scope in scopes}
                for scope, spending in read[group_id].items():
                    spending.replace(moment, _sum_of(cells[group_id], scope))
                if keep:
                    group.scopes |= read[group_id]
                    self._groups[group_id] = group
            for record in self._recorder.waiting:
                chosen = read.get(record.group_id, {})
                for scope in scopes_of(record.model, record.subject):
                    if scope in chosen:
                        chosen[scope].add(record.called_at, record.usage)
            return read


def _sum_of(cells: dict[Scope, dict[Period, Sums]], scope: Scope) -> dict[Period, Sums]:
    """Add up what models and subjects have used in a scope."""
    chosen = [
        sums for cell, sums in cells.items() if scope.model in ("", cell.model) and scope.subject in ("", cell.subject)
    ]
    return {
        period: Sums(
            sum(sums[period].cost for sums in chosen if period in sums),
            sum(sums[period].tokens for sums in chosen if period in sums),
        )
        for period in Period
    }
