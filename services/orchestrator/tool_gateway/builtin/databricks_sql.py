"""Runs a SQL statement in a warehouse of Databricks."""

from services.common.reading.reader import CannotRead
from services.orchestrator.tool_gateway.builtin.databricks.statements import (
    bound,
    follow_statement,
    run_statement,
    statement_body,
)
from services.orchestrator.tool_gateway.builtin.databricks.workspace import Workspaces
from services.orchestrator.tool_gateway.parsing.parser import BoundedParser
from services.orchestrator.tool_gateway.ports import CallProgress, OutcomeUnknown, ToolCallRequest, ToolResult


class DatabricksSql:
    """`databricks_sql`."""

    def __init__(self, workspaces: Workspaces, parser: BoundedParser) -> None:
        self._workspaces = workspaces
        self._parser = parser

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Run a statement and return its rows; see `ToolAdapter`."""
        statement = str(request.arguments["statement"])
        if request.config.get("read_only", True) and (problem := await self._refusal(request, statement)):
            return ToolResult(problem, is_error=True)
        given = request.arguments.get("parameters") or {}
        body = statement_body(statement, request.config, [bound(name, value) for name, value in given.items()])
        return await run_statement(await self._workspaces.open(request), body, progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """Wait for a statement by its id; see `ToolAdapter`."""
        if not handle:
            raise OutcomeUnknown("the statement may have been submitted, but its id was not received")
        return await follow_statement(await self._workspaces.open(request), handle, progress)

    async def _refusal(self, request: ToolCallRequest, statement: str) -> str:
        try:
            found = await self._parser.read(request.principal.group_id, "sql", statement=statement)
        except CannotRead as error:
            return f"the statement cannot be checked: {error}"
        return str(found["refused"])
