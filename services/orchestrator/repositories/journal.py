"""Journals of executions in SQL: answers of models that were paid for, and tool calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, case, insert, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore, insert_or_update
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.tables import llm_journal, tool_journal

_ENDED = (ToolCallState.COMPLETED, ToolCallState.FAILED)
# Calls that failed for any other reason have had no effect.
_REASONS_OF_MADE_CALLS = ("", "TOOL_RESULT_TOO_LARGE")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What the journal knows of a tool call. What has a default is known of calls alone that hosts make."""

    state: ToolCallState
    output: str
    error: str
    """Why it failed, or (UNKNOWN) what was seen of it."""
    tool: str = ""
    call_id: str = ""
    """By what the gateway and the source know it."""
    round: int = 0
    """How often a person has said that it had no effect."""
    arguments: str = ""
    """JSON text."""
    tool_hash: str = ""
    idempotent: bool = False
    reason: str = ""
    """An ErrorReason; empty for a failure that the tool tells of itself."""
    intended_at: datetime | None = None


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

    async def take_over(
        self, execution_id: str, *, answers: Mapping[int, int], tools: Mapping[int, int], effects: Mapping[int, int]
    ) -> None:
        """Copy what tasks of another execution were given.

        All map the index that a task had there to the one it has here: `answers` of models; `tools` that may run twice;
        `effects`, calls of tools that must not, as far as they may have had one: also of unknown outcome, which has to
        be found out here.
        """
        journal = tool_journal.c
        await self._copy(llm_journal, execution_id, answers, true())
        await self._copy(tool_journal, execution_id, tools, journal.idempotent & journal.state.in_(_ENDED))
        without_effect = (journal.state == ToolCallState.CANCELLED) | journal.reason.not_in(_REASONS_OF_MADE_CALLS)
        await self._copy(tool_journal, execution_id, effects, ~journal.idempotent & ~without_effect)

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
        """Note that a crew process, of the claim `epoch`, is about to run a tool."""
        await self.put_tool_call(index, key, ToolCall(ToolCallState.INTENT, "", "", tool, idempotent=idempotent), epoch)

    async def put_tool_call(self, index: int, key: str, call: ToolCall, epoch: int) -> None:
        """Store a call as the claim `epoch` knows it; the time of a round's first intent stays."""
        now = utc_now()
        row = {
            "execution_id": self._execution_id,
            "task_index": index,
            "call_key": key,
            "tool_name": call.tool,
            "idempotent": call.idempotent,
            "state": call.state,
            "epoch": epoch,
            "call_id": call.call_id,
            "round": call.round,
            "tool_hash": call.tool_hash,
            "arguments": call.arguments,
            "reason": call.reason,
            "result": call.output.encode(errors="replace"),
            "error": call.error,
            "intended_at": call.intended_at or now,
            "resulted_at": None if call.state is ToolCallState.INTENT else now,
        }
        key_columns = ("execution_id", "task_index", "call_key")
        await insert_or_update(
            self._connection,
            tool_journal,
            row,
            key=key_columns,
            update=tuple(name for name in row if name not in key_columns),
        )

    async def end_tool_call(self, index: int, key: str, output: str, error: str) -> None:
        """Store what has come of a tool call of a crew process."""
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


async def read_calls_of_tools(database: Database, execution_id: str) -> list[tuple[str, int, str]]:
    """Return the tool, the task's index and the key of each call that an execution has made, as far as is known."""
    rows = await database.fetch(
        select(tool_journal.c.tool_name, tool_journal.c.task_index, tool_journal.c.call_key).where(
            tool_journal.c.execution_id == execution_id, tool_journal.c.reason.in_(_REASONS_OF_MADE_CALLS)
        )
    )
    return [(row["tool_name"], row["task_index"], row["call_key"]) for row in rows]


async def read_effects(connection: AsyncConnection, execution_id: str) -> frozenset[str]:
    """Return the ids of the calls that an execution has made of tools that must not be called twice."""
    rows = await connection.execute(
        select(tool_journal.c.call_id).where(
            tool_journal.c.execution_id == execution_id, ~tool_journal.c.idempotent, tool_journal.c.call_id != ""
        )
    )
    return frozenset(rows.scalars())


async def read_tool_result(database: Database, execution_id: str, call_id: str) -> str | None:
    """Return what a tool call of an execution has returned, or why it failed; None when no ended call has the id.

    One statement needs no transaction.
    """
    rows = await database.fetch(
        select(tool_journal.c.result, tool_journal.c.error).where(
            tool_journal.c.execution_id == execution_id,
            tool_journal.c.call_id == call_id,
            tool_journal.c.state.in_([ToolCallState.COMPLETED, ToolCallState.FAILED]),
        )
    )
    return (rows[0]["result"] or b"").decode() or rows[0]["error"] if rows else None


def _tool_call(row: Mapping[str, Any]) -> ToolCall:
    return ToolCall(
        ToolCallState(row["state"]),
        (row["result"] or b"").decode(),
        row["error"],
        row["tool_name"],
        row["call_id"],
        row["round"],
        row["arguments"],
        row["tool_hash"],
        row["idempotent"],
        row["reason"],
        row["intended_at"],
    )
