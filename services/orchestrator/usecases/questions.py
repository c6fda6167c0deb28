"""Use cases of QuestionService."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import (
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.schema_checks.checker import MAX_CHARACTERS, SchemaChecker
from services.orchestrator import tables
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.question import Answer, Question, QuestionChange, QuestionKind, QuestionState
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.questions import QuestionChangeReader, QuestionFilter, QuestionRepository
from services.orchestrator.usecases.execution_starter import AlsoStore, existing_execution
from services.orchestrator.usecases.question_feed import QuestionFeed
from services.orchestrator.usecases.question_settler import QuestionSettler

_QUESTIONS = Pager("questions")
_CONTENT = "accept.content"
# Results are parts of other messages, which may be nested 100 deep; each level of JSON takes three of them.
_MAX_NESTING = 24


class Questions:
    """Shows the questions of groups, and takes answers."""

    def __init__(
        self,
        database: Database,
        changes: QuestionChangeReader,
        feed: QuestionFeed,
        settler: QuestionSettler,
        checker: SchemaChecker,
    ) -> None:
        self._database = database
        self._changes = changes
        self._feed = feed
        self._settler = settler
        self._checker = checker

    async def page(self, principal: Principal, wanted: QuestionFilter, size: int, token: str) -> Page[Question]:
        """Return a page of the group's questions, newest first. Raises InvalidArgument: INVALID_PAGE_TOKEN."""
        group_id = principal.group_id
        filters = {
            "group": group_id,
            "states": sorted(wanted.states),
            "kinds": sorted(wanted.kinds),
            "execution": wanted.execution_id,
            "crew": wanted.crew_id,
        }
        async with self._database.read() as connection:
            questions = QuestionRepository(connection)
            return await _QUESTIONS.page(
                size,
                token,
                filters,
                lambda after, limit: questions.page(group_id, wanted, after[0] if after else None, limit),
                lambda question: [question.id],
                lambda question: len(to_json(to_document(question))),
            )

    async def get(self, principal: Principal, question_id: str) -> Question:
        """Return a question. Raises NotFound."""
        async with self._database.read() as connection:
            question = await QuestionRepository(connection).get(principal.group_id, question_id)
        if question is None:
            raise NotFound.of("question", question_id)
        return question

    async def watch(self, principal: Principal, after_sequence: int) -> AsyncIterator[list[QuestionChange]]:
        """Yield what changes in the group's questions after a sequence, each change once and in order, in lists.

        Raises:
            InvalidArgument: the group has no change of that sequence yet.
            Unavailable: this process is shutting down; watch again.
        """
        newest = (await self._changes.newest([principal.group_id])).get(principal.group_id, 0)
        if after_sequence > newest:
            raise InvalidArgument.field(
                "after_sequence", f"the group's newest change is {newest}; pass the last sequence you have seen"
            )
        async for changes in self._feed.follow(principal.group_id, after_sequence, newest):
            yield changes

    async def answer(
        self,
        principal: Principal,
        question_id: str,
        answer: Answer,
        request: RequestKey | None,
        also_store: AlsoStore | None = None,
    ) -> Question:
        """Answer a question, which wakes or cancels its execution; return it as it then stands.

        `also_store` is stored with the first answer.

        Raises:
            NotFound: the group does not have this question.
            PermissionDenied: ROLE_REQUIRED, the question needs a higher role.
            InvalidArgument: the content is not one that the question takes.
            FailedPrecondition: QUESTION_STATE, it was answered otherwise before, or its execution has ended.
            AlreadyExists: the request_id was used with another body.
        """
        question = await self.get(principal, question_id)
        _require_role(principal, question)
        if answer.state is QuestionState.ACCEPTED:
            answer = replace(answer, content=_completed(question, answer.content))
        if answer.content is not None:
            await self._check(question, answer.content)
        async with self._database.write() as connection:
            executions, questions = ExecutionRepository(connection), QuestionRepository(connection)
            # Answers and ends of an execution take this lock: what is read under it stays valid.
            execution = await executions.lock(question.execution_id, principal.group_id)
            current = await questions.get(principal.group_id, question_id)
            if execution is None or current is None:
                raise NotFound.of("question", question_id)
            if request is not None:
                first_id = await RequestRepository(connection, tables.requests).claim(request, question_id)
                if first_id != question_id:
                    # A copy of a message answered the question before this one.
                    return current
            if (current.answer, current.answered_by) == (answer, principal.subject):
                return current
            if current.state is not QuestionState.OPEN or execution.state.terminal:
                raise _answered_before(current)
            await self._settler.settle(connection, execution, current, answer, principal.subject)
            if also_store is not None:
                await also_store(connection, execution)
            changed = await existing_execution(connection, principal.group_id, execution.id)
            settled = await questions.get(principal.group_id, question_id)
        if settled is None:
            raise Internal("the question is gone")
        await self._settler.announce(changed, answer)
        return settled

    async def _check(self, question: Question, content: Any) -> None:
        """Raise InvalidArgument unless the content is one as the question asks for it."""
        if question.kind is QuestionKind.URL:
            raise InvalidArgument.field(_CONTENT, "must be left out: this question takes no content")
        if question.schema is None:
            if not isinstance(content, str) or not content.strip() or len(content) > MAX_CHARACTERS:
                raise InvalidArgument.field(
                    _CONTENT, f"must be a text of 1 to {MAX_CHARACTERS:,} characters: the task has no output_schema"
                )
            return
        if not isinstance(content, dict) or not _is_nested_at_most(content, _MAX_NESTING):
            raise InvalidArgument.field(
                _CONTENT,
                f"must be an object, nested at most {_MAX_NESTING} levels deep, that follows the question's schema",
            )
        found = await self._checker.check(question.group_id, question.schema, json.dumps(content))
        if found.unchecked in {"process", "queue"}:
            raise Unavailable("the content cannot be checked now; try again", retry_after=1.0)
        if found.unchecked:
            raise InvalidArgument.field(
                _CONTENT, "cannot be checked against the question's schema in time; send less, or simplify the schema"
            )
        if found.violations:
            raise InvalidArgument.fields([_violation(text) for text in found.violations])


def _completed(question: Question, content: Any) -> Any:
    """Return the content of an accepting answer with what is meant where there is none."""
    match question.kind:
        case QuestionKind.OUTCOME_UNKNOWN if content is None:
            raise InvalidArgument.field(
                _CONTENT, 'must say what you have found out: {"happened": true, "result": ...} or {"happened": false}'
            )
        case QuestionKind.FORM if content is None:
            return {}
        case QuestionKind.URL if content == {}:
            return None
        case _:
            return content


def _violation(text: str) -> FieldViolation:
    path, _, rule = text.partition(": ")
    return FieldViolation(_CONTENT if path == "the answer" else f"{_CONTENT}.{path}", rule)


def _is_nested_at_most(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    items = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_nested_at_most(item, levels - 1) for item in items)


def _require_role(principal: Principal, question: Question) -> None:
    if principal.role < question.role:
        raise PermissionDenied(
            f"this question needs the role {question.role.name}; you are {principal.role.name} of this group: ask an "
            "admin of it",
            reason="ROLE_REQUIRED",
            metadata={"required": question.role.name, "actual": principal.role.name},
        )


def _answered_before(question: Question) -> FailedPrecondition:
    return FailedPrecondition(
        f"the question is {question.state} already; the first answer counts",
        reason="QUESTION_STATE",
        metadata={"question_id": question.id, "state": question.state},
    )
