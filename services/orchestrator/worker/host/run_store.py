"""What worker hosts read, and what they write outside of a run: claims, and what they give back."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass

import structlog
from cachetools import LRUCache, TTLCache
from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.admission import Room
from services.orchestrator.domain.artifact import Artifact, ArtifactUpload
from services.orchestrator.domain.crew import CrewSpec, ToolSpec
from services.orchestrator.domain.event import NewEvent
from services.orchestrator.domain.execution import Execution, ExecutionState, Success, TaskRun, Usage
from services.orchestrator.domain.question import Question
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.events import new_event
from services.orchestrator.repositories.admission import AdmissionRepository, read_any_waiting, read_first_in_line
from services.orchestrator.repositories.artifact_uploads import read_uploads
from services.orchestrator.repositories.artifacts import read_artifacts, read_chunk, read_group_bytes
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.earlier_approvals import EarlierApprovals
from services.orchestrator.repositories.events import EventReader, EventRepository
from services.orchestrator.repositories.executions import (
    ExecutionRepository,
    read_cancellations,
    read_held,
    read_holders,
    read_is_claimed,
    read_waiting_or_due,
)
from services.orchestrator.repositories.journal import (
    ToolCall,
    read_answers,
    read_calls_of_tools,
    read_tool_calls,
    read_tool_result,
)
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.repositories.worker_slots import WorkerSlotsRepository, read_can_run, read_slots_beside
from services.orchestrator.tool_resolver import ToolResolver
from services.orchestrator.worker.host.fenced_write import Fenced, FencedWrite

logger = structlog.get_logger(__name__)

_UNREADABLE = 10_000
_UNREADABLE_SECONDS = 60.0
_SPECS = 16
"""How many revisions of crews are kept, each of up to some megabytes."""


class _Unreadable(Exception):
    """A row or document of an execution has a value that this release does not know."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(execution_id)
        self.execution_id = execution_id


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution this host has claimed, as it stood at that moment."""

    execution: Execution
    """Its `epoch` is the claim's."""
    spec: CrewSpec
    tasks: tuple[TaskRun, ...]
    """In the crew's order."""
    questions: dict[int, Question]
    """The newest question of each task that has one, by the task's index."""


class RunStore:
    """Rows as worker hosts use them. Every method raises Unavailable while the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A revision never changes.
        self._specs: LRUCache[tuple[str, int], CrewSpec] = LRUCache(_SPECS)
        self._unreadable: TTLCache[str, bool] = TTLCache(_UNREADABLE, _UNREADABLE_SECONDS)
        self._revoked: set[str] = set()

    async def holders(self) -> set[str]:
        """Return the ids of hosts that have executions, dead ones among them."""
        return await read_holders(self._database)

    async def any_waiting(self, room: Room) -> bool:
        """Return whether an execution waits for a host that there may be room for."""
        return await read_any_waiting(self._database, of_idle_groups=not room.free)

    async def waiting_or_due(self) -> tuple[bool, bool]:
        """Return whether executions wait for a host, and whether others have waited for a model until now."""
        return await read_waiting_or_due(self._database, utc_now())

    async def first_in_line(self) -> str | None:
        """Return the execution that a host would take first, as far as its group's own limit lets it run."""
        return await read_first_in_line(self._database)

    async def held(self, executor_id: str) -> set[str]:
        """Return the executions that a host has by their rows."""
        return await read_held(self._database, executor_id)

    async def can_run(self, executor_id: str, slots: int, reserved_slots: int, group_limit: int | None) -> None:
        """Store what a host can run, for those who want to know why an execution waits."""
        if await read_can_run(self._database, executor_id) == (slots, reserved_slots, group_limit):
            return
        async with self._database.write() as connection:
            await WorkerSlotsRepository(connection).put(executor_id, slots, reserved_slots, group_limit)

    async def slots_beside(self, executor_id: str) -> int:
        """Return how many slots all other hosts have."""
        return await read_slots_beside(self._database, executor_id)

    async def give_back(self, execution_id: str, epoch: int) -> bool:
        """Let an execution wait for any host again, if the claim that ran it is still the newest; return whether."""
        async with self._database.write() as connection:
            return await ExecutionRepository(connection).give_back(execution_id, epoch)

    async def give_back_from(self, executor_ids: Collection[str], running: Collection[str] = ()) -> list[str]:
        """Let what hosts have wait for any host again, but what is `running`; return the executions' ids."""
        async with self._database.write() as connection:
            return await ExecutionRepository(connection).give_back_from(executor_ids, running)

    async def cancellations(self, execution_ids: Collection[str]) -> set[str]:
        """Return those executions whose cancellation was requested."""
        return await read_cancellations(self._database, execution_ids)

    async def take_over(self, executor_ids: Collection[str]) -> list[str]:
        """Let everything that dead hosts had wait for any host again, and forget them; return the executions' ids."""
        async with self._database.write() as connection:
            await WorkerSlotsRepository(connection).remove(executor_ids)
            return await ExecutionRepository(connection).take_over_from(executor_ids)

    async def hand_over(self, executor_id: str) -> list[str]:
        """Let everything that a host has which stops wait for any host again; return the executions' ids."""
        async with self._database.write() as connection:
            await WorkerSlotsRepository(connection).remove([executor_id])
            return await ExecutionRepository(connection).give_back_from([executor_id])

    async def take(self, executor_id: str, room: Room) -> list[Claim]:
        """Take what may run and has waited longest: from now on no other host's write to it counts.

        What this release cannot read, because a newer one has written it, is left to others and keeps nobody waiting.
        """
        while True:
            try:
                return await self._take(executor_id, room)
            except _Unreadable as error:
                # Without the cause's message, which quotes what the caller wrote.
                cause = type(error.__cause__).__name__
                logger.warning("execution_not_readable", execution_id=error.execution_id, error=cause)
                self._unreadable[error.execution_id] = True

    async def _take(self, executor_id: str, room: Room) -> list[Claim]:
        async with self._database.write() as connection:
            admission = AdmissionRepository(connection)
            await admission.lock()
            admitted = room.admit(await admission.line(room.total, list(self._unreadable)))
            if not admitted:
                return []
            lost = {waiting.execution_id for waiting in admitted if waiting.lost}
            ids = [waiting.execution_id for waiting in admitted]
            taken = await ExecutionRepository(connection).take(ids, executor_id, utc_now())
            return [await self._readable(connection, execution, takeover=execution.id in lost) for execution in taken]

    async def _readable(self, connection: AsyncConnection, execution: Execution, *, takeover: bool) -> Claim:
        try:
            return await self._claim(connection, execution, takeover=takeover)
        except ValueError as error:
            raise _Unreadable(execution.id) from error

    async def _claim(self, connection: AsyncConnection, execution: Execution, *, takeover: bool) -> Claim:
        started = execution_pb2.ExecutionStarted(
            claim=execution.epoch, takeover=takeover, lost_hosts=execution.lost_hosts
        )
        await EventRepository(connection).store(
            execution.group_id, execution.id, execution.last_sequence, [new_event(started)]
        )
        tasks = tuple(await TaskRunRepository(connection, execution.id).list())
        asked = any(task.attempt for task in tasks)
        if asked:
            await EarlierApprovals(connection).adopt(execution.id)
        return Claim(
            execution=execution,
            spec=await self._spec(connection, execution.crew_id, execution.crew_revision),
            tasks=tasks,
            questions=await QuestionRepository(connection).newest(execution.id) if asked else {},
        )

    async def _spec(self, connection: AsyncConnection, crew_id: str, revision: int) -> CrewSpec:
        spec: CrewSpec | None = self._specs.get((crew_id, revision))
        if spec is None:
            spec = self._specs[crew_id, revision] = await CrewRepository(connection).spec(crew_id, revision)
        return spec

    @contextlib.asynccontextmanager
    async def fenced(
        self,
        execution_id: str,
        epoch: int,
        events: Sequence[NewEvent] = (),
        used: Usage | None = None,
        succeeded: Success | None = None,
    ) -> AsyncIterator[FencedWrite]:
        """Yield a transaction that stores events, what calls have used, and all that is done within, or nothing at all.

        With `succeeded` it ends the execution, whose other changes are done within all the same.

        Raises:
            Fenced: the claim is not the newest one, or the execution has ended.
        """
        async with self._database.write() as connection:
            last = await EventRepository(connection).append(
                execution_id, events, epoch=epoch, used=used, succeeded=succeeded
            )
            if last is None:
                raise Fenced(execution_id)
            write = FencedWrite(connection, execution_id, epoch, last, events)
            yield write
            await write.tasks.store()

    async def confirm_claim(self, execution_id: str, epoch: int) -> None:
        """Return when a claim is the newest one, for what is stored elsewhere.

        Raises:
            Fenced: it is not, or the execution has ended.
        """
        if not await read_is_claimed(self._database, execution_id, epoch):
            raise Fenced(execution_id)

    async def is_stored(self, execution_id: str, after_sequence: int, event: NewEvent) -> bool:
        """Return whether an event is among those after a sequence: whether a commit that was not confirmed was made."""
        return await EventReader(self._database).has(execution_id, after_sequence, event)

    async def wake(self, execution_id: str, epoch: int) -> bool:
        """Wake an execution that a claim has parked for its credential; return whether it was still parked."""
        async with self._database.write() as connection:
            work = ExecutionRepository(connection)
            execution = await work.lock(execution_id)
            parked = (
                execution is not None
                and execution.epoch == epoch
                and execution.state is ExecutionState.WAITING_FOR_CREDENTIAL
            )
            if parked:
                await work.wake(execution_id)
            return parked

    async def wake_due(self, limit: int) -> list[str]:
        """Wake executions that have waited for a model until now, and return their ids."""
        async with self._database.write() as connection:
            return await ExecutionRepository(connection).wake_due(utc_now(), limit)

    async def journaled_responses(self, execution_id: str, index: int) -> dict[tuple[str, int], bytes]:
        """Return the responses of models to earlier attempts at a task, by request hash and occurrence."""
        return await read_answers(self._database, execution_id, index)

    async def tool_calls(self, execution_id: str, index: int) -> dict[str, ToolCall]:
        """Return what is known of the tool calls of earlier attempts at a task, by their keys."""
        return await read_tool_calls(self._database, execution_id, index)

    async def tool_result(self, execution_id: str, call_id: str) -> str | None:
        """Return the whole result of a tool call of an execution, by its id; None when there is none."""
        return await read_tool_result(self._database, execution_id, call_id)

    async def files(self, execution_id: str) -> list[Artifact]:
        """Return all revisions of an execution's files that are kept, oldest first."""
        return await read_artifacts(self._database, execution_id)

    async def uploads(self, execution_id: str, ids: Collection[str]) -> list[ArtifactUpload]:
        """Return those of some files that tools have made for an execution and nobody has taken, oldest first."""
        return await read_uploads(self._database, execution_id, ids)

    async def file_chunk(self, artifact_id: str, position: int) -> bytes | None:
        """Return a piece of a file, from 0; None when it has been replaced."""
        return await read_chunk(self._database, artifact_id, position)

    async def group_file_bytes(self, group_id: str) -> int:
        """Return how many bytes the files of a group have."""
        return await read_group_bytes(self._database, group_id)

    async def calls_of_tools(self, execution_id: str) -> list[tuple[str, int, str]]:
        """Return the tool, the task's index and the key of each call that an execution has made, as far as is known."""
        return await read_calls_of_tools(self._database, execution_id)

    async def resolved_tools(
        self, execution: Execution, sets: Sequence[Sequence[ToolSpec]]
    ) -> list[list[ResolvedTool]]:
        """Return what the tools are that each of the sets of an execution's crew stands for."""
        if not any(sets):
            return [[] for _ in sets]
        async with self._database.read() as connection:
            pins = await CrewRepository(connection).tool_pins(execution.crew_id, execution.crew_revision)
            resolver = ToolResolver(connection)
            return [await resolver.resolve(execution.group_id, specs, pins) if specs else [] for specs in sets]

    async def resolved_tool(self, execution: Execution, tool: ResolvedTool) -> ResolvedTool:
        """Return a tool of an execution's crew as it is now."""
        if tool.spec is None:
            return tool
        ((resolved,),) = await self.resolved_tools(execution, [[tool.spec]])
        return resolved

    async def source_versions(self, group_id: str) -> dict[str, str]:
        """Return the versions of a group's sources of tools, by name."""
        async with self._database.read() as connection:
            return await ToolSourceRepository(connection).versions(group_id)

    async def call_questions(self, execution_id: str) -> list[Question]:
        """Return the questions about calls of tools of an execution."""
        async with self._database.read() as connection:
            return await QuestionRepository(connection).about_calls(execution_id)

    async def questions(self, execution_id: str) -> dict[int, Question]:
        """Return the newest question of each task that has one, by the task's index."""
        async with self._database.read() as connection:
            return await QuestionRepository(connection).newest(execution_id)

    async def prune_chunks(self, execution_id: str, call_id: str, first: int) -> None:
        """Remove the chunks of a model's answer, all of which come after a sequence."""
        async with self._database.write() as connection:
            await EventRepository(connection).prune_chunks(execution_id, call_id, first)

    def note_revoked(self, execution_id: str) -> None:
        """Remember that the grant of an ended execution is revoked, for `store_revoked`."""
        self._revoked.add(execution_id)

    async def store_revoked(self) -> None:
        """Store whose grants are revoked. What a lost host has not stored, the API's housekeeping revokes again."""
        revoked = set(self._revoked)
        if revoked:
            async with self._database.write_once() as connection:
                await ExecutionRepository(connection).grants_revoked(revoked)
            self._revoked -= revoked
