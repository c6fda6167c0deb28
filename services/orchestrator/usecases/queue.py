"""Why executions wait for a worker host."""

from collections.abc import Collection

from services.common.db.database import Database
from services.orchestrator.domain.execution import Execution
from services.orchestrator.domain.queue_status import QueueStatus, queue_status, turn_status
from services.orchestrator.repositories.admission import read_places
from services.orchestrator.repositories.turns import read_turns
from services.orchestrator.repositories.worker_slots import read_capacity
from services.orchestrator.usecases.workers import Workers


class Queue:
    """The line of executions that wait."""

    def __init__(self, database: Database, workers: Workers) -> None:
        self._database = database
        self._workers = workers

    async def statuses(self, executions: Collection[Execution]) -> dict[str, QueueStatus]:
        """Return why those executions wait that do, by their ids: for all of them in a few statements."""
        turns = await self._turns([execution for execution in executions if execution.waits_turn])
        waiting = [execution.id for execution in executions if execution.ready]
        if not waiting:
            return turns
        hosts = [lease.executor_id for lease in await self._workers.alive()]
        capacity = await read_capacity(self._database, hosts)
        places = await read_places(self._database, waiting)
        return turns | {execution_id: queue_status(capacity, place) for execution_id, place in places.items()}

    async def _turns(self, executions: Collection[Execution]) -> dict[str, QueueStatus]:
        if not executions:
            return {}
        keys = {execution.id: execution.concurrency_key for execution in executions}
        ahead = await read_turns(self._database, list(keys))
        return {execution_id: turn_status(keys[execution_id], count) for execution_id, count in ahead.items()}
