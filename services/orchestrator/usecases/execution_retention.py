"""The end of executions' rows: deleted by callers, or when their time is over."""

from datetime import timedelta

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FailedPrecondition
from services.common.identity.principal import Principal
from services.orchestrator.domain.retention import Retention
from services.orchestrator.repositories.batches import BatchRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.retention import RetentionRepository
from services.orchestrator.usecases.ports import Grants

# Each has thousands of events, and more at once would keep other writers waiting.
_PORTION = 10
# Of one group, before the others have their turn.
_PORTIONS = 20


class ExecutionRetention:
    """Deletes ended executions."""

    def __init__(self, database: Database, grants: Grants, *, default_seconds: float) -> None:
        """`default_seconds` is for how long groups keep executions that chose nothing; 0 means for ever."""
        self._database = database
        self._grants = grants
        self._default = Retention(default_seconds, chosen=False)

    async def get(self, principal: Principal) -> Retention:
        """Return what counts for the group."""
        return await self._of(principal.group_id)

    async def set(self, principal: Principal, seconds: float | None) -> Retention:
        """Choose for how long the group keeps executions (0: for ever), or None for the operator's default."""
        async with self._database.write() as connection:
            await RetentionRepository(connection).choose(principal.group_id, seconds)
        return await self._of(principal.group_id)

    async def delete(self, principal: Principal, execution_id: str) -> bool:
        """Delete an execution that has ended; return whether the group had it.

        Raises:
            FailedPrecondition: EXECUTION_STATE, it has not ended.
            Unavailable: auth cannot be asked to revoke its grant.
        """
        async with self._database.read() as connection:
            execution = await ExecutionRepository(connection).get(principal.group_id, execution_id)
        if execution is None:
            return False
        if not execution.state.terminal:
            raise FailedPrecondition(
                f"the execution is {execution.state}; cancel it, and delete it when it has ended",
                reason="EXECUTION_STATE",
                metadata={"execution_id": execution_id, "state": execution.state},
            )
        # Without the row nobody would know that there is a grant.
        await self._grants.revoke(execution_id)
        async with self._database.write() as connection:
            return bool(await RetentionRepository(connection).delete(principal.group_id, [execution_id]))

    async def once(self) -> None:
        """Delete what is too old now. Replicas may do it at once."""
        group_id = ""
        while (next_group := await self._next_group(group_id)) is not None:
            group_id = next_group
            await self._delete_old(group_id)

    async def _next_group(self, after: str) -> str | None:
        async with self._database.read() as connection:
            retention = RetentionRepository(connection)
            if self._default.seconds:
                return await retention.next_group(after)
            return await retention.next_group_with_choice(after)

    async def _delete_old(self, group_id: str) -> None:
        keep_for = (await self._of(group_id)).seconds
        if not keep_for:
            return
        before = utc_now() - timedelta(seconds=keep_for)
        for _ in range(_PORTIONS):
            async with self._database.write() as connection:
                deleted = await RetentionRepository(connection).delete_ended(group_id, before, _PORTION)
                await BatchRepository(connection).delete_ended(group_id, before, _PORTION)
            if deleted < _PORTION:
                return

    async def _of(self, group_id: str) -> Retention:
        async with self._database.read() as connection:
            seconds = await RetentionRepository(connection).chosen(group_id)
        return self._default if seconds is None else Retention(seconds, chosen=True)
