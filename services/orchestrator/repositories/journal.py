"""Journals of executions in SQL: answers of models that were paid for, and tool calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, case, insert, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore, insert_or_update
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.tables import llm_journal, tool_journal


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What the journal knows of a tool call."""

    state: ToolCallState
    output: str
    error: str


class JournalRepository:
    """What attempts at one execution's tasks have been given, for the attempts after them."""

    def __init__(self, connection: AsyncConnection, execution_id: str) -> None:
        self._connection = connection
        self._execution_id = execution_id

    async def keep_answer(self, index: int, request_hash: str, occurrence: int, response: bytes) -> None:
        """Store a model's answer to a task's request; the first answer counts."""
        row = {
            "execution_id": self._execution_id,
            "task_index": index,
            "request_hash": request_hash,
            "occurrence": occurrence,
            "response": response,
            "created_at": utc_now(),
        }
        await insert_ignore(self._connection, llm_journal, row)

    async def take_over(self, execution_id: str, *, answers: Mapping[int, int], tools: Mapping[int, int]) -> None:
        """Copy what tasks of another execution were given, but tool calls whose outcome is not known.

        Both map the index that a task had there to the one it has here.
        """
        await self._copy(llm_journal, execution_id, answers, true())
        await self._copy(tool_journal, execution_id, tools, tool_journal.c.state != ToolCallState.INTENT)

    async def _copy(
        self, table: Table, execution_id: str, indices: Mapping[int, int], wanted: ColumnElement[bool]
    ) -> None:
        if not indices:
            return
        new = {"execution_id": literal(self._execution_id), "task_index": case(indices, value=table.c.task_index)}
        rows = select(*(new.get(column.name, column) for column in table.c)).where(
            table.c.execution_id == execution_id, table.c.task_index.in_(indices), wanted
        )
        await self._connection.execute(insert(table).from_select([column.name for column in table.c], rows))

    async def intend_tool_call(self, index: int, key: str, tool: str, *, epoch: int, idempotent: bool) -> None:
        """Note that a claim, `epoch`, is about to run a tool."""
        row = {
            "execution_id": self._execution_id,
            "task_index": index,
            "call_key": key,
            "tool_name": tool,
            "idempotent": idempotent,
            "state": ToolCallState.INTENT,
            "epoch": epoch,
            "error": "",
            "intended_at": utc_now(),
        }
        await insert_or_update(
            self._connection,
            tool_journal,
            row,
            key=("execution_id", "task_index", "call_key"),
            update=("state", "epoch", "intended_at"),
        )

    async def end_tool_call(self, index: int, key: str, output: str, error: str) -> None:
        """Store what has come of a tool call."""
        await self._connection.execute(
            update(tool_journal)
            .where(
                tool_journal.c.execution_id == self._execution_id,
                tool_journal.c.task_index == index,
                tool_journal.c.call_key == key,
            )
            .values(
                state=ToolCallState.FAILED if error else ToolCallState.COMPLETED,
                result=output.encode(errors="replace"),
                error=error,
                resulted_at=utc_now(),
            )
        )


async def read_answers(database: Database, execution_id: str, index: int) -> dict[tuple[str, int], bytes]:
    """Return the answers of models to earlier attempts at a task, by request hash and occurrence.

    One statement needs no transaction.
    """
    rows = await database.fetch(
        select(llm_journal.c.request_hash, llm_journal.c.occurrence, llm_journal.c.response).where(
            llm_journal.c.execution_id == execution_id, llm_journal.c.task_index == index
        )
    )
    return {(row["request_hash"], row["occurrence"]): row["response"] for row in rows}


async def read_tool_calls(database: Database, execution_id: str, index: int) -> dict[str, ToolCall]:
    """Return what is known of the tool calls of earlier attempts at a task, by their keys.

    One statement needs no transaction.
    """
    rows = await database.fetch(
        select(tool_journal).where(tool_journal.c.execution_id == execution_id, tool_journal.c.task_index == index)
    )
    return {row["call_key"]: _tool_call(row) for row in rows}


def _tool_call(row: Mapping[str, Any]) -> ToolCall:
    return ToolCall(ToolCallState(row["state"]), (row["result"] or b"").decode(), row["error"])
