"""Finds the tools that a crew names, with all that their calls need to know."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.domain.tool import ResolvedTool, Tool
from services.orchestrator.domain.tool_source import ApprovalRule
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_identity import model_name, tool_hash

MAX_TOOLS_PER_AGENT = 128
"""More tools than this no model is given at once."""


class ToolResolver:
    """Resolves the tools of crews by what is stored now."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def resolve(
        self, group_id: str, specs: Sequence[ToolSpec], pins: Mapping[str, str] | None = None
    ) -> list[ResolvedTool]:
        """Return the tools of an agent for one task, each once; of two specs with one name the later counts.

        `pins` are the hashes that the crew was stored with, by the tools' names; None asks for the tools as they are now.
        A tool that cannot be used now is returned with its `problem`.
        """
        return list({spec.name: _built_in(spec) for spec in specs}.values())[:MAX_TOOLS_PER_AGENT]


def _built_in(spec: ToolSpec) -> ResolvedTool:
    tool = TOOLS.get(spec.name)
    return unusable(spec, "TOOL_NOT_FOUND", f'there is no tool "{spec.name}"') if tool is None else built_in(tool, spec)


def built_in(tool: Tool, spec: ToolSpec) -> ResolvedTool:
    """Return a built-in tool as a crew uses it."""
    return narrowed(
        ResolvedTool(
            name=tool.name,
            model_name=model_name(tool.name),
            description=tool.description,
            arguments_schema=tool.arguments_schema,
            hash=tool_hash(tool.name, tool.description, tool.arguments_schema),
            config=spec.config,
            idempotent=tool.idempotent,
            in_crew_process=tool.in_crew_process,
        ),
        spec,
    )


def unusable(spec: ToolSpec, reason: str, problem: str) -> ResolvedTool:
    """Return what a crew names although it cannot be used."""
    return ResolvedTool(
        name=spec.name,
        model_name=model_name(spec.name),
        description="",
        arguments_schema={"type": "object"},
        hash="",
        config=spec.config,
        idempotent=False,
        problem_reason=reason,
        problem=problem,
    )


def narrowed(tool: ResolvedTool, spec: ToolSpec) -> ResolvedTool:
    """Return a tool within the limits that a crew sets for itself; those of the tool hold as well."""
    return replace(
        tool,
        approval=ApprovalRule.ALWAYS if spec.requires_approval else tool.approval,
        timeout=_least((tool.timeout, spec.timeout)) or tool.timeout,
        max_calls=_least((tool.max_calls, spec.max_calls)),
        result_limit=int(_least((tool.result_limit, spec.result_limit)) or tool.result_limit),
    )


def _least(values: Iterable[float | int | None]) -> float | int | None:
    return min((value for value in values if value is not None), default=None)
