"""Regular work on executions that no caller requests."""

from dataclasses import replace
from datetime import timedelta

from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.execution import Execution, ExecutionError, ExecutionState
from services.orchestrator.repositories.earlier_approvals import EarlierApprovals
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.usecases.execution_ender import ExecutionEnder
from services.orchestrator.usecases.question_deadlines import QuestionDeadlines

_BATCH = 100
# A grant is revoked as soon as its execution ends; one that is left after this time was forgotten.
_GRANT_AGE = timedelta(seconds=30)


class Housekeeping:
    """Ends waiting executions and questions whose time is up, and revokes forgotten grants.

    Replicas may do it at once.
    """

    def __init__(self, database: Database, ender: ExecutionEnder, deadlines: QuestionDeadlines) -> None:
        self._database = database
        self._ender = ender
        self._deadlines = deadlines

    async def once(self) -> None:
        """Do all that is due now."""
        full: set[tuple[str, ...]] = set()
        while True:
            pages = await self._do_pages()
            before, full = full, {tuple(page) for page in pages if len(page) == _BATCH}
            # What nothing could be done about is read again, and waits for the next time.
            if full <= before:
                return

    async def _do_pages(self) -> tuple[list[str], ...]:
        """Do up to `_BATCH` of each kind that is due, and return the ids of those that there may be more of."""
        now = utc_now()
        async with self._database.read() as connection:
            executions = ExecutionRepository(connection)
            overdue = await executions.overdue(now, _BATCH)
            forgotten = await executions.unrevoked_grants(now - _GRANT_AGE, _BATCH)
            earlier = await EarlierApprovals(connection).waiting(_BATCH)
            unanswered = await QuestionRepository(connection).overdue(now, _BATCH)
        for execution_id in earlier:
            await self._adopt_approvals(execution_id)
        for execution_id in overdue:
            await self._end_waiting(execution_id)
        await self._deadlines.answer(unanswered)
        for execution_id in forgotten:
            if not await self._ender.revoke(execution_id):
                forgotten = []  # there may be more, but auth is away
                break
        return overdue, [question.id for question in unanswered], forgotten

    async def _adopt_approvals(self, execution_id: str) -> None:
        async with self._database.write() as connection:
            await ExecutionRepository(connection).lock(execution_id)
            await EarlierApprovals(connection).adopt(execution_id)

    async def _end_waiting(self, execution_id: str) -> None:
        async with self._database.write() as connection:
            execution = await ExecutionRepository(connection).lock(execution_id)
            # A worker may have claimed it meanwhile, and ends it then.
            if execution is None or execution.state.terminal:
                return
            if execution.state is ExecutionState.RUNNING and not execution.ready:
                return
            # A worker may have parked it without having heard of the cancellation.
            cancelled = execution.cancel_requested_at is not None
            await self._ender.end(connection, execution, None if cancelled else _timed_out(execution))
        await self._ender.announce(replace(execution, last_sequence=execution.last_sequence + 1))


def _timed_out(execution: Execution) -> ExecutionError:
    return ExecutionError(
        "EXECUTION_TIMEOUT",
        f"the execution took longer than its timeout of {execution.timeout or 0:g} s and was {execution.state} when it "
        "ended; resume it with a longer timeout: what is finished is kept",
    )
