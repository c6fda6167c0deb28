"""What is said in a task, and how much of it."""

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.errors import InvalidArgument
from services.orchestrator.domain.a2a import TaskRow
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository
from services.orchestrator.usecases.a2a.inputs import IncomingMessage
from services.orchestrator.usecases.a2a.push_configs import PushConfigs

MAX_MESSAGES = 256
"""That a task has of those who sent it."""
MAX_BYTES = 2 * 1024 * 1024
"""Of all these: half of what clients take as one response by default, which has results besides."""


class TaskHistory:
    """Stores what is said in tasks."""

    def __init__(self, push_configs: PushConfigs) -> None:
        self._push_configs = push_configs

    async def refuse(self, connection: AsyncConnection, task: TaskRow, message: IncomingMessage, subject: str) -> None:
        """Refuse a message that could not be stored now. Raises CoxswainError: see `say`."""
        await refuse_more(connection, task.id, len(message.stored(task.id, task.context_id)))
        if message.push is not None:
            await self._push_configs.refuse_more(connection, task, message.push, subject)

    async def say(self, connection: AsyncConnection, task: TaskRow, message: IncomingMessage, subject: str) -> None:
        """Store a message of a task that is locked or new, and the push notification config that came with it.

        Raises CoxswainError: see `refuse_more` and `PushConfigs.store`.
        """
        payload = message.stored(task.id, task.context_id)
        await refuse_more(connection, task.id, len(payload))
        await A2ATaskRepository(connection).say(task.id, payload)
        if message.push is not None:
            await self._push_configs.store(connection, task, message.push, subject)


async def refuse_more(connection: AsyncConnection, task_id: str, size: int) -> None:
    """Refuse a message of so many bytes.

    Raises:
        InvalidArgument: the task would have more messages, or bytes in them, than it may.
    """
    count, used = await A2ATaskRepository(connection).said(task_id)
    if count >= MAX_MESSAGES:
        raise InvalidArgument.field(
            "message.task_id", f"has {MAX_MESSAGES} messages, as many as a task may have; begin another task"
        )
    if used + size > MAX_BYTES:
        raise InvalidArgument.field(
            "message",
            f"has {size} bytes, and the messages of its task {used}; together they may have {MAX_BYTES}: send less, or "
            "begin another task",
        )
