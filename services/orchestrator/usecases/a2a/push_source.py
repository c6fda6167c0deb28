"""What happens to tasks, as their push notifications tell it."""

import asyncio
from collections.abc import Callable

from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.a2a import TaskRow
from services.orchestrator.domain.webhook import Binding, Delivery, PayloadForm, Webhook, place_of
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.events import EventReader
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.usecases.a2a.streams import TELLING_KINDS, TaskChange, TaskStreams
from services.orchestrator.usecases.a2a.views import FollowedTask, TaskView, read_views
from services.orchestrator.usecases.webhook_sources import Found, new_delivery

RenderChange = Callable[[TaskRow, TaskChange], bytes]
RenderTask = Callable[[TaskView], bytes]

# Results may be large.
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
        told = await self._group_events.of_execution(webhook.group_id, bound.execution_id, bound.sequence, limit)
        if not told:
            return None
        last = told[-1].event.sequence
        async with self._database.read() as connection:
            row = await A2ATaskRepository(connection).get(webhook.group_id, bound.task_id)
            if row is None:
                return Found(last, [])
            spec = await CrewRepository(connection).spec(row.crew_id, row.crew_revision)
        task = FollowedTask(row, spec, bound.execution_id, last, ended=False)
        made = []
        for event in await self._events.of_kinds_after(bound.execution_id, bound.sequence, TELLING_KINDS, limit):
            if event.sequence <= last:
                async for change in self._streams.changes(task, event):
                    made += await self._deliveries(webhook, bound, task, event.kind, event.sequence, change)
        return Found(last, made)

    async def _deliveries(
        self, webhook: Webhook, bound: Binding, task: FollowedTask, kind: str, sequence: int, change: TaskChange
    ) -> list[Delivery]:
        # Bodies may be large, and other work waits for the loop.
        await asyncio.sleep(0)
        if bound.form is PayloadForm.A2A:
            body = self._render_change(task.row, change)
        elif change.result is None:
            async with self._database.read() as connection:
                (view,) = await read_views(connection, [task.row])
            body = self._render_task(view)
        else:
            # The status behind it comes with the task, which has the result.
            return []
        place = place_of(sequence, artifact=change.result is not None)
        return [new_delivery(new_id(), webhook, task.execution_id, place, kind, body)]
