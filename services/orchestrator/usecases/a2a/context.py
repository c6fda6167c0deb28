"""What was said before in the context of a message."""

from collections.abc import Sequence

from a2a.types import a2a_pb2

from services.common.db.database import Database
from services.orchestrator.domain.a2a import ProvidedInput, TaskRow
from services.orchestrator.domain.a2a_errors import task_not_found
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.placeholders import required_inputs
from services.orchestrator.repositories.a2a_tasks import A2ATaskRepository

MAX_BYTES = 64 * 1024
"""Of these, the newest are kept."""
_MOST_TASKS = 50
# All at once might be all the memory.
_TASKS_AT_ONCE = 5
# Of a text that is full: its first character may have been cut.
_MOST_CUT = 4


async def conversation(database: Database, task: TaskRow, spec: CrewSpec, reference_task_ids: Sequence[str]) -> str:
    """Return what was said in earlier tasks of a context, and what came of tasks that a message refers to, as text.

    It is read for crews alone that refer to it.

    Raises:
        NotFound: TASK_NOT_FOUND, the message refers to a task that the group does not have.
    """
    async with database.read() as connection:
        tasks = A2ATaskRepository(connection)
        referred = [await tasks.get(task.group_id, task_id) for task_id in reference_task_ids]
        known = [one for one in referred if one is not None]
        if len(known) < len(referred):
            raise task_not_found()
        if ProvidedInput.CONTEXT not in required_inputs(spec):
            return ""
        earlier = await tasks.of_context(task.group_id, task.tenant, task.context_id, _MOST_TASKS)
        rows = list({one.id: one for one in (*known, *earlier) if one.id != task.id}.values())
        text = ""
        for end in range(len(rows), 0, -_TASKS_AT_ONCE):
            portion = await _said(tasks, rows[max(end - _TASKS_AT_ONCE, 0) : end])
            text = _newest("\n\n".join(filter(None, (portion, text))))
            if len(text.encode()) > MAX_BYTES - _MOST_CUT:
                break
    return text


async def _said(tasks: A2ATaskRepository, rows: Sequence[TaskRow]) -> str:
    """Return what was said in tasks, as text."""
    said, ended = await tasks.messages([row.id for row in rows]), await tasks.executions(rows, results=True)
    lines = []
    for row in rows:
        for message in said.get(row.id, ()):
            parts = a2a_pb2.Message.FromString(message.payload).parts
            lines += [f"User: {part.text}" for part in parts if part.text]
        execution = ended.get(row.execution_id or "")
        if execution is not None and execution.result is not None:
            lines.append(f"Agent: {execution.result.text}")
    return "\n\n".join(lines)


def _newest(text: str) -> str:
    data = text.encode()
    return data[-MAX_BYTES:].decode(errors="ignore")
