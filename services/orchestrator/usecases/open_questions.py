"""Executions and tasks with the questions that they wait with."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.execution import Execution, TaskRun
from services.orchestrator.repositories.questions import QuestionRepository


async def with_open_questions(connection: AsyncConnection, executions: Sequence[Execution]) -> list[Execution]:
    """Return executions with the ids of their open questions."""
    unfinished = [execution.id for execution in executions if not execution.state.terminal]
    found = await QuestionRepository(connection).open_ids(unfinished) if unfinished else []
    ids = {execution_id: tuple(id_ for owner, _, id_ in found if owner == execution_id) for execution_id, _, _ in found}
    return [replace(execution, open_question_ids=ids.get(execution.id, ())) for execution in executions]


async def tasks_with_open_questions(
    connection: AsyncConnection, execution: Execution, runs: Sequence[TaskRun]
) -> list[TaskRun]:
    """Return tasks of an execution with the ids of their open questions."""
    found = await QuestionRepository(connection).open_ids([execution.id]) if execution.open_question_ids else []
    return [
        replace(run, open_question_ids=tuple(id_ for _, index, id_ in found if index == run.task_index)) for run in runs
    ]
