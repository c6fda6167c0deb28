"""Executions and tasks with the questions that they wait with."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.execution import Execution, TaskRun
from services.orchestrator.repositories.questions import OpenQuestion, QuestionRepository


async def with_open_questions(connection: AsyncConnection, executions: Sequence[Execution]) -> list[Execution]:
    """Return executions with the ids of their open questions."""
    unfinished = [execution.id for execution in executions if not execution.state.terminal]
    found = await QuestionRepository(connection).open_ids(unfinished) if unfinished else []
    return [asking(execution, found) for execution in executions]


def asking(execution: Execution, found: Sequence[OpenQuestion]) -> Execution:
    """Return an execution with the ids of those questions that are its own."""
    ids = tuple(question.id for question in found if question.execution_id == execution.id)
    return replace(execution, open_question_ids=ids) if ids else execution


async def tasks_with_open_questions(
    connection: AsyncConnection, execution: Execution, runs: Sequence[TaskRun]
) -> list[TaskRun]:
    """Return tasks of an execution with the ids of their open questions."""
    found = await QuestionRepository(connection).open_ids([execution.id]) if execution.open_question_ids else []
    return [
        replace(
            run, open_question_ids=tuple(question.id for question in found if question.task_index == run.task_index)
        )
        for run in runs
    ]
