"""Calls a function of Unity Catalog."""

import re

from services.orchestrator.tool_gateway.builtin.databricks.statements import (
    bound,
    follow_statement,
    run_statement,
    statement_body,
)
from services.orchestrator.tool_gateway.builtin.databricks.workspace import Workspaces
from services.orchestrator.tool_gateway.ports import CallProgress, OutcomeUnknown, ToolCallRequest, ToolResult

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class DatabricksUcFunction:
    """`databricks_uc_function`."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Call the function with named, bound arguments, and return its value or rows; see `ToolAdapter`."""
        given = request.arguments.get("arguments") or {}
        odd = [name for name in given if not _NAME.fullmatch(name)]
        if odd:
            return ToolResult(f"{odd[0][:64]} cannot be the name of a parameter", is_error=True)
        function = ".".join(_quoted(part) for part in str(request.config["function"]).split("."))
        call = f"{function}({', '.join(f'{_quoted(name)} => :{name}' for name in given)})"
        statement = f"SELECT * FROM {call}" if request.config.get("returns_table") else f"SELECT {call} AS result"  # noqa: S608
        body = statement_body(statement, request.config, [bound(name, value) for name, value in given.items()])
        return await run_statement(await self._workspaces.open(request), body, progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """Wait for a call by its statement's id; see `ToolAdapter`."""
        if not handle:
            raise OutcomeUnknown("the function may have been called, but the id of its statement was not received")
        return await follow_statement(await self._workspaces.open(request), handle, progress)


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"
