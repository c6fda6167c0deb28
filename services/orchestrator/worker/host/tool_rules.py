"""What a call of a tool has to comply with before it is made."""

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Sequence

from services.common.schema_checks.checker import MAX_CHARACTERS, SchemaChecker
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import ApprovalRule
from services.orchestrator.expressions import BadExpression, Expression, NotEvaluated

_MOST_FAULTS = 10
Refusal = tuple[str, str]
"""An ErrorReason, and what the model is told."""


class ToolRules:
    """The rules for the calls of one execution."""

    def __init__(
        self,
        group_id: str,
        checker: SchemaChecker,
        read_calls: Callable[[], Awaitable[Sequence[tuple[str, int, str]]]],
    ) -> None:
        """`read_calls` returns the tool, the task's index and the key of each call in the execution's journal."""
        self._group_id = group_id
        self._checker = checker
        self._read_calls = read_calls
        self._calls: dict[str, set[tuple[int, str]]] = {}
        self._has_read = False

    async def refusal(self, tool: ResolvedTool, index: int, key: str, arguments: str) -> Refusal | None:
        """Return why a call cannot be made; None if it can."""
        if tool.problem_reason:
            return tool.problem_reason, tool.problem
        fault = await self._fault(tool, arguments)
        if fault:
            return "TOOL_ARGUMENTS", fault
        if tool.max_calls is not None and len((await self._made(tool.name)) - {(index, key)}) >= tool.max_calls:
            allowed = f"{tool.max_calls} times, as often as it may be in one execution"
            return "TOOL_RATE_LIMITED", f'the tool "{tool.name}" was called {allowed}; go on without it'
        return None

    def count(self, tool: str, index: int, key: str) -> None:
        """Note that a call is about to be made. It is counted once, however often it is repeated."""
        self._calls.setdefault(tool, set()).add((index, key))

    def discount(self, tool: str, index: int, key: str) -> None:
        """Note that a call was not made after all."""
        self._calls.get(tool, set()).discard((index, key))

    async def needs_approval(self, tool: ResolvedTool, arguments: str) -> bool:
        """Return whether a person has to approve a call; also when that cannot be worked out."""
        if tool.approval is not ApprovalRule.WHEN:
            return tool.approval is ApprovalRule.ALWAYS
        # Parsing and evaluating takes milliseconds.
        return await asyncio.to_thread(_condition_holds, tool.approval_condition, arguments)

    async def _fault(self, tool: ResolvedTool, arguments: str) -> str:
        if len(arguments) > MAX_CHARACTERS:
            return f"the arguments have more than {MAX_CHARACTERS:,} characters; send less"
        # A source may send any schema: it is checked in a process of its own, and a text that is no object fails there.
        found = await self._checker.check(self._group_id, tool.arguments_schema, arguments)
        if found.unchecked in {"process", "queue", "time"}:
            return "the arguments could not be checked in time; send less, or try again"
        if found.unchecked:
            return f"the arguments could not be checked by the tool's schema ({found.unchecked}); send simpler ones"
        shown = "\n".join(f"- {violation}" for violation in found.violations[:_MOST_FAULTS])
        return f"the arguments do not follow the tool's schema:\n{shown}" if shown else ""

    async def _made(self, tool: str) -> set[tuple[int, str]]:
        if not self._has_read:
            for name, index, key in await self._read_calls():
                self.count(name, index, key)
            self._has_read = True
        return self._calls.get(tool, set())


def _condition_holds(condition: str, arguments: str) -> bool:
    try:
        return _parsed(condition).holds({"arguments": json.loads(arguments)})
    except (BadExpression, NotEvaluated, ValueError, RecursionError):
        return True


@functools.lru_cache(64)
def _parsed(condition: str) -> Expression:
    return Expression(condition)
