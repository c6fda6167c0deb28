"""Executions that share a key and must not overlap."""

from dataclasses import dataclass, field, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import AlreadyExists
from services.orchestrator.domain.execution import Execution, OverlapPolicy
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import HintBus
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.turns import TurnRepository, read_waiting_keys
from services.orchestrator.usecases.execution_ender import ExecutionEnder
from services.orchestrator.usecases.hinted_loop import Pending


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new execution as it is to be stored, and the older ones that were cancelled for it."""

    execution: Execution
    cancelled: list[Execution] = field(default_factory=list)
    """As they were left: ended, or running until their workers hear of it."""

    @property
    def running(self) -> int:
        """How many of those have not ended yet."""
        return sum(not older.state.terminal for older in self.cancelled)


class Overlap:
    """Applies overlap policies, and gives turns to executions that wait for others with their key.

    Locks are taken in one order, the key before its executions: what ends an execution holds no key.
    """

    def __init__(self, database: Database, ender: ExecutionEnder, bus: HintBus) -> None:
        self._database = database
        self._ender = ender
        self._bus = bus

    async def admit(self, connection: AsyncConnection, execution: Execution) -> Admitted:
        """Return how a new execution is to be stored in this transaction. Call `announce` after it.

        Raises:
            AlreadyExists: CONCURRENCY_KEY_TAKEN.
        """
        if not execution.concurrency_key:
            return Admitted(execution)
        turns = TurnRepository(connection, execution.group_id, execution.concurrency_key)
        await turns.lock()
        older = await turns.unended()
        if not older or execution.overlap_policy is OverlapPolicy.ALLOW:
            return Admitted(execution)
        if execution.overlap_policy is OverlapPolicy.SKIP:
            raise AlreadyExists(
                f'the execution {older[0]} with the key "{execution.concurrency_key}" has not ended, and the '
                "overlap_policy is SKIP; wait for its end, or choose QUEUE or CANCEL_OLD",
                reason="CONCURRENCY_KEY_TAKEN",
                metadata={"concurrency_key": execution.concurrency_key, "execution_id": older[0]},
            )
        waiting = replace(execution, ready=False, waits_turn=True)
        if execution.overlap_policy is OverlapPolicy.QUEUE:
            return Admitted(waiting)
        cancelled = await self._cancel(connection, execution.group_id, older)
        ended = all(each.state.terminal for each in cancelled)
        return Admitted(execution if ended else waiting, cancelled)

    async def _cancel(self, connection: AsyncConnection, group_id: str, execution_ids: list[str]) -> list[Execution]:
        """Cancel executions of a group, and return those that had not ended as they were left."""
        executions = ExecutionRepository(connection)
        cancelled: list[Execution] = []
        for execution_id in execution_ids:
            execution = await executions.lock(execution_id, group_id)
            if execution is not None and not execution.state.terminal:
                await self._ender.cancel(connection, execution)
                cancelled += filter(None, [await executions.get(group_id, execution_id)])
        return cancelled

    async def announce(self, admitted: Admitted) -> None:
        """Let workers and watchers know of the executions that were cancelled, and replicas of one that waits."""
        if admitted.execution.waits_turn:
            self._bus.publish(Hint(HintKind.WORK_STORED, admitted.execution.id))
        for execution in admitted.cancelled:
            await self._ender.announce_cancel(execution)

    async def pass_turns(self) -> Pending:
        """Let executions run whose turn it is; return the groups in which others wait. Replicas may do it at once."""
        waiting = await read_waiting_keys(self._database)
        for group_id, key in waiting:
            async with self._database.write() as connection:
                turns = TurnRepository(connection, group_id, key)
                await turns.lock()
                passed = await turns.pass_on()
            if passed is not None:
                self._bus.publish(Hint(HintKind.EXECUTION_READY, passed))
        return Pending({group_id for group_id, _ in waiting})
