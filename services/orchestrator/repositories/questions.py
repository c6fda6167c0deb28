"""Questions to people in SQL."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_or_add
from services.common.identity.principal import Role
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.domain.question import (
    Answer,
    Question,
    QuestionChange,
    QuestionedCall,
    QuestionKind,
    QuestionState,
)
from services.orchestrator.tables import question_changes, question_inboxes, questions


@dataclass(frozen=True, slots=True)
class QuestionFilter:
    """Which questions of a group are listed; what is empty leaves all in."""

    states: Collection[QuestionState] = ()
    kinds: Collection[QuestionKind] = ()
    execution_id: str = ""
    crew_id: str = ""


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """Who asks an open question."""

    execution_id: str
    task_index: int
    id: str


class QuestionRepository:
    """Questions, and the order in which they change.

    What changes a question locks its group's inbox last, after the question's execution: so nobody waits in a circle.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, group_id: str, question_id: str) -> Question | None:
        """Return a question of a group."""
        query = select(questions).where(questions.c.group_id == group_id, questions.c.id == question_id)
        row = (await self._connection.execute(query)).first()
        return None if row is None else to_question(row)

    async def page(self, group_id: str, wanted: QuestionFilter, before_id: str | None, limit: int) -> list[Question]:
        """Return questions with an id below `before_id`, newest first."""
        query = select(questions).where(questions.c.group_id == group_id)
        if wanted.states:
            query = query.where(questions.c.state.in_(sorted(wanted.states)))
        if wanted.kinds:
            query = query.where(questions.c.kind.in_(sorted(wanted.kinds)))
        if wanted.execution_id:
            query = query.where(questions.c.execution_id == wanted.execution_id)
        if wanted.crew_id:
            query = query.where(questions.c.crew_id == wanted.crew_id)
        if before_id is not None:
            query = query.where(questions.c.id < before_id)
        rows = await self._connection.execute(query.order_by(questions.c.id.desc()).limit(limit))
        return [to_question(row) for row in rows]

    async def count_open(self) -> dict[QuestionKind, int]:
        """Return how many questions of all groups wait for an answer, by their kind; those without are left out."""
        rows = await self._connection.execute(
            select(questions.c.kind, func.count().label("number"))
            .where(questions.c.state == QuestionState.OPEN)
            .group_by(questions.c.kind)
        )
        return {QuestionKind(row.kind): row.number for row in rows}

    async def newest(self, execution_id: str) -> dict[int, Question]:
        """Return the newest question about the result of each task of an execution, by the task's index."""
        rows = await self._connection.execute(
            select(questions)
            .where(questions.c.execution_id == execution_id, questions.c.kind == QuestionKind.RESULT_APPROVAL)
            .order_by(questions.c.id)
        )
        return {row.task_index: to_question(row) for row in rows}

    async def about_calls(self, execution_id: str) -> list[Question]:
        """Return the questions about calls of tools of an execution, oldest first."""
        rows = await self._connection.execute(
            select(questions)
            .where(questions.c.execution_id == execution_id, questions.c.kind != QuestionKind.RESULT_APPROVAL)
            .order_by(questions.c.id)
        )
        return [to_question(row) for row in rows]

    async def of_executions(self, execution_ids: Collection[str], newest: int | None = None) -> list[Question]:
        """Return the questions of executions, oldest first; `newest`: so many of each, and those that are open."""
        query = select(questions).where(questions.c.execution_id.in_(execution_ids))
        if newest is not None:
            age = func.row_number().over(partition_by=questions.c.execution_id, order_by=questions.c.id.desc())
            ages = (
                select(questions.c.id, age.label("age")).where(questions.c.execution_id.in_(execution_ids)).subquery()
            )
            query = query.join(ages, ages.c.id == questions.c.id).where(
                or_(ages.c.age <= newest, questions.c.state == QuestionState.OPEN)
            )
        rows = await self._connection.execute(query.order_by(questions.c.id))
        return [to_question(row) for row in rows]

    async def declined(self, execution_id: str) -> frozenset[int]:
        """Return the indices of an execution's tasks whose results a person has declined."""
        rows = await self._connection.execute(
            select(questions.c.task_index).where(
                questions.c.execution_id == execution_id,
                questions.c.kind == QuestionKind.RESULT_APPROVAL,
                questions.c.state == QuestionState.DECLINED,
                questions.c.answered_by != "",
            )
        )
        return frozenset(rows.scalars())

    async def any_open(self, execution_id: str) -> bool:
        """Return whether a person still has to answer."""
        is_open = exists().where(questions.c.execution_id == execution_id, questions.c.state == QuestionState.OPEN)
        return bool((await self._connection.execute(select(is_open))).scalar_one())

    async def open_ids(self, execution_ids: Collection[str]) -> list[OpenQuestion]:
        """Return the open questions of executions, oldest first."""
        return [OpenQuestion(*row) for row in await self._connection.execute(_open(execution_ids))]

    async def overdue(self, now: datetime, limit: int) -> list[Question]:
        """Return open questions past their deadline, of all groups."""
        rows = await self._connection.execute(
            select(questions)
            .where(questions.c.state == QuestionState.OPEN, questions.c.deadline_at <= now)
            .order_by(questions.c.deadline_at)
            .limit(limit)
        )
        return [to_question(row) for row in rows]

    async def insert(self, question: Question) -> None:
        """Store a new question of an execution that is locked."""
        await self._connection.execute(
            insert(questions).values(
                id=question.id,
                execution_id=question.execution_id,
                group_id=question.group_id,
                crew_id=question.crew_id,
                crew_name=question.crew_name,
                task_index=question.task_index,
                task_name=question.task_name,
                attempt=question.attempt,
                kind=question.kind,
                state=question.state,
                text=question.text,
                content=to_document(question.call or question.result),
                schema=question.schema,
                role=question.role,
                deadline_at=question.deadline_at,
                on_deadline=question.on_deadline,
                answer=None if question.answer is None else to_document(question.answer),
                answered_by=question.answered_by,
                answered_at=question.answered_at,
                created_at=question.created_at,
            )
        )
        await self._note_changes(question.group_id, [question.id], question.state)

    async def answer(self, question: Question, answer: Answer, subject: str, at: datetime) -> None:
        """Store the answer to an open question whose execution is locked; no subject means its deadline."""
        await self._connection.execute(
            update(questions)
            .where(questions.c.id == question.id)
            .values(state=answer.state, answer=to_document(answer), answered_by=subject, answered_at=at)
        )
        await self._note_changes(question.group_id, [question.id], answer.state)

    async def close_open(self, execution_id: str) -> None:
        """Close the open questions of an execution that ends."""
        closed = await self._connection.execute(
            update(questions)
            .where(questions.c.execution_id == execution_id, questions.c.state == QuestionState.OPEN)
            .values(state=QuestionState.CLOSED)
            .returning(questions.c.group_id, questions.c.id)
        )
        rows = closed.all()
        if rows:
            await self._note_changes(rows[0].group_id, sorted(row.id for row in rows), QuestionState.CLOSED)

    async def _note_changes(self, group_id: str, ids: Sequence[str], state: QuestionState) -> None:
        counted = {"group_id": group_id, "last_sequence": len(ids)}
        inbox = await insert_or_add(
            self._connection, question_inboxes, counted, key=("group_id",), add=("last_sequence",)
        )
        first = inbox.last_sequence - len(ids) + 1
        await self._connection.execute(
            insert(question_changes),
            [
                {"group_id": group_id, "sequence": sequence, "question_id": question_id, "state": state}
                for sequence, question_id in enumerate(ids, start=first)
            ],
        )


class QuestionChangeReader:
    """Reads what has changed. Each read is one SELECT beside any transaction: every hint to a watcher leads to one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, group_id: str, sequence: int, limit: int) -> list[QuestionChange]:
        """Return up to `limit` changes of a group after a sequence, in order."""
        rows = await self._database.fetch(
            select(questions, question_changes.c.sequence, question_changes.c.state.label("changed_to"))
            .join(question_changes, question_changes.c.question_id == questions.c.id)
            .where(question_changes.c.group_id == group_id, question_changes.c.sequence > sequence)
            .order_by(question_changes.c.sequence)
            .limit(limit)
        )
        return [QuestionChange(row["sequence"], _as_changed(to_question(row), row["changed_to"])) for row in rows]

    async def open(self, group_id: str, after: int, upto: int, limit: int) -> list[QuestionChange]:
        """Return up to `limit` questions that are open now and were asked between two sequences, in order."""
        rows = await self._database.fetch(
            select(questions, question_changes.c.sequence)
            .join(question_changes, question_changes.c.question_id == questions.c.id)
            .where(
                questions.c.group_id == group_id,
                questions.c.state == QuestionState.OPEN,
                question_changes.c.sequence > after,
                question_changes.c.sequence <= upto,
            )
            .order_by(question_changes.c.sequence)
            .limit(limit)
        )
        return [QuestionChange(row["sequence"], to_question(row)) for row in rows]

    async def newest(self, group_ids: Collection[str]) -> dict[str, int]:
        """Return the last sequence of each of these groups that has any."""
        rows = await self._database.fetch(select(question_inboxes).where(question_inboxes.c.group_id.in_(group_ids)))
        return {row["group_id"]: row["last_sequence"] for row in rows}


async def read_open(database: Database, execution_id: str) -> list[OpenQuestion]:
    """Return the open questions of an execution, oldest first. One statement needs no transaction."""
    return [OpenQuestion(*row.values()) for row in await database.fetch(_open([execution_id]))]


def _open(execution_ids: Collection[str]) -> Select[Any]:
    return (
        select(questions.c.execution_id, questions.c.task_index, questions.c.id)
        .where(questions.c.execution_id.in_(execution_ids), questions.c.state == QuestionState.OPEN)
        .order_by(questions.c.id)
    )


def to_question(row: Row[Any] | dict[str, Any]) -> Question:
    """Return the question of a row of `questions`."""
    columns = row if isinstance(row, dict) else row._mapping  # noqa: SLF001 - the documented way to read by name
    kind, content = QuestionKind(columns["kind"]), columns["content"]
    of_result = kind is QuestionKind.RESULT_APPROVAL
    return Question(
        id=columns["id"],
        kind=kind,
        state=QuestionState(columns["state"]),
        group_id=columns["group_id"],
        execution_id=columns["execution_id"],
        crew_id=columns["crew_id"],
        crew_name=columns["crew_name"],
        task_index=columns["task_index"],
        task_name=columns["task_name"],
        attempt=columns["attempt"],
        text=columns["text"],
        result=from_document(TaskOutput, content) if of_result else None,
        call=None if of_result else from_document(QuestionedCall, content),
        schema=columns["schema"],
        role=Role(columns["role"]),
        deadline_at=columns["deadline_at"],
        on_deadline=OnDeadline(columns["on_deadline"]),
        created_at=columns["created_at"],
        answer=None if columns["answer"] is None else from_document(Answer, columns["answer"]),
        answered_by=columns["answered_by"],
        answered_at=columns["answered_at"],
    )


def _as_changed(question: Question, state: str) -> Question:
    if QuestionState(state) is not QuestionState.OPEN:
        return question
    return replace(question, state=QuestionState.OPEN, answer=None, answered_by="", answered_at=None)
