"""What happens to tasks, as their push notifications tell it."""

import asyncio
from collections.abc import Awaitable, Callable

from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.a2a import TaskRow
from services.orchestrator.domain.webhook import Delivery, PayloadForm, Webhook, place_of
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.events import EventReader
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.usecases.a2a.streams import TELLING_KINDS, TaskChange, TaskStreams
from services.orchestrator.usecases.a2a.views import FollowedTask, TaskView, read_views
from services.orchestrator.usecases.webhook_sources import BYTES_AT_ONCE, Found, new_delivery

RenderChange = Callable[[TaskRow, TaskChange], bytes]
RenderTask = Callable[[TaskView], bytes]

# Results and files may be large.
_MOST_EVENTS = 10


class PushSource:
    """Makes push notifications of the events that streams of tasks tell of: those of 0.3 hold the task as it stands."""

    def __init__(
        self,
        database: Database,
        events: GroupEventReader,
        streams: TaskStreams,
        render_change: RenderChange,
        render_task: RenderTask,
    ) -> None:
        self._database = database
        self._group_events = events
        self._events = EventReader(database)
        self._streams = streams
        self._render_change = render_change
        self._render_task = render_task

    async def after(self, webhook: Webhook, limit: int) -> Found | None:
        """See `DeliverySource`."""
        bound = webhook.bound
        if bound is None or bound.execution_id is None:
            return None
        limit = min(limit, _MOST_EVENTS)
        events = await self._group_events.of_execution(webhook.group_id, bound.execution_id, bound.sequence, limit)
        if not events:
            return None
        last = events[-1].event.sequence
        async with self._database.read() as connection:
            row = await A2ATaskRepository(connection).get(webhook.group_id, bound.task_id)
            if row is None:
                return Found(last, [])
            spec = await CrewRepository(connection).spec(row.crew_id, row.crew_revision)
        task = FollowedTask(row, spec, bound.execution_id, last, ended=False)
        render = self._changes(row) if bound.form is PayloadForm.A2A else self._tasks(row)
        made: list[Delivery] = []
        size = 0
        telling = await self._events.of_kinds_after(bound.execution_id, bound.sequence, TELLING_KINDS, limit)
        if len(telling) == limit:
            # Files are no events of the group: there may be any number between two of these.
            last = min(last, telling[-1].sequence)
        for event in telling:
            if event.sequence > last:
                break
            if size >= BYTES_AT_ONCE:
                # The first of those that are left for the next time.
                last = event.sequence - 1
                break
            async for change in self._streams.changes(task, event):
                if (body := await render(change)) is not None:
                    place = place_of(event.sequence, artifact=change.artifact is not None)
                    made.append(new_delivery(new_id(), webhook, task.execution_id, place, event.kind, body))
                    size += len(body)
        return Found(last, made)

    def _changes(self, row: TaskRow) -> Callable[[TaskChange], Awaitable[bytes | None]]:
        async def render(change: TaskChange) -> bytes:
            # Bodies may be large, and other work waits for the loop.
            return await asyncio.to_thread(self._render_change, row, change)

        return render

    def _tasks(self, row: TaskRow) -> Callable[[TaskChange], Awaitable[bytes | None]]:
        rendered: list[bytes] = []

        async def render(change: TaskChange) -> bytes | None:
            if change.artifact is not None:
                # The status behind it comes with the task, which has the artifact.
                return None
            if not rendered:
                async with self._database.read() as connection:
                    (view,) = await read_views(connection, [row])
                rendered.append(await asyncio.to_thread(self._render_task, view))
            return rendered[0]

        return render
