"""Finds the tools that a crew names, with all that their calls need to know."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.crew import OnDeadline, ToolSpec
from services.orchestrator.domain.tool import ResolvedTool, Tool
from services.orchestrator.domain.tool_source import (
    ApprovalRule,
    ListedTool,
    OnToolChange,
    SourceKind,
    ToolChangeKind,
    ToolPolicy,
    ToolSource,
    matches,
)
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.suggestions import few_suggestions, suggestion
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_identity import model_name, source_of, tool_hash, tool_of

MAX_TOOLS_PER_AGENT = 128
"""More tools than this no model is given at once."""
EVERY_TOOL = "*"
# What these list comes from what the group or the operator has written, and is no claim of a server.
_TRUSTED_KINDS = frozenset({SourceKind.HTTP, SourceKind.OPENAPI, SourceKind.PYTHON, SourceKind.MCP_COMMAND})


class ToolResolver:
    """Resolves the tools of crews by what is stored now."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def resolve(
        self, group_id: str, specs: Sequence[ToolSpec], pins: Mapping[str, str] | None = None
    ) -> list[ResolvedTool]:
        """Return the tools of an agent for one task, each once; of two specs with one name the later counts.

        `pins` are the hashes that the crew was stored with, by the tools' names; with None what an admin has accepted
        counts alone. A tool that cannot be used now is returned with its `problem`.
        """
        sources = await self.sources(group_id, specs)
        with few_suggestions():
            return resolve_tools(specs, sources, pins)[:MAX_TOOLS_PER_AGENT]

    async def sources(self, group_id: str, specs: Iterable[ToolSpec]) -> dict[str, ToolSource]:
        """Return the sources that specs name, by name, as far as the group has them."""
        names = {source_of(spec.name) for spec in specs} - {""}
        return await ToolSourceRepository(self._connection).named(group_id, names)


def resolve_tools(
    specs: Iterable[ToolSpec], sources: Mapping[str, ToolSource], pins: Mapping[str, str] | None = None
) -> list[ResolvedTool]:
    """Return the tools that specs name, as `ToolResolver.resolve` does, but all of them.

    A tool that is named by itself keeps its own settings beside those of its source's `source/*`.
    """
    all_of: dict[str, ResolvedTool] = {}
    by_name: dict[str, ResolvedTool] = {}
    for spec in specs:
        if not source_of(spec.name):
            by_name[spec.name] = _built_in(spec)
        elif tool_of(spec.name) == EVERY_TOOL:
            all_of |= {tool.name: tool for tool in _every_tool(spec, sources, pins)}
        else:
            by_name[spec.name] = _listed(spec, sources, pins)
    return list((all_of | by_name).values())


def _built_in(spec: ToolSpec) -> ResolvedTool:
    tool = TOOLS.get(spec.name)
    if tool is not None:
        return built_in(tool, spec)
    return _unusable(spec, "TOOL_NOT_FOUND", f'there is no tool "{spec.name}"; {suggestion(spec.name, TOOLS)}')


def _every_tool(
    spec: ToolSpec, sources: Mapping[str, ToolSource], pins: Mapping[str, str] | None
) -> Iterator[ResolvedTool]:
    source = sources.get(source_of(spec.name))
    if source is None:
        yield _unusable(spec, *_no_source(spec, sources))
        return
    if problem := source_problem(source):
        yield _unusable(spec, *problem, source)
        return
    for listed in source.tools:
        one = replace(spec, name=f"{source.spec.name}/{listed.name}")
        # Of a crew that is being stored, a tool that has changed is a fault, and one that is new is not of its tools.
        new = listed.name not in source.accepted if pins is None else one.name not in pins
        if not source.spec.allows(listed.name) or (new and _is_blocked(source, listed, None)):
            continue
        yield of_source(source, listed, one, pins)


def _listed(spec: ToolSpec, sources: Mapping[str, ToolSource], pins: Mapping[str, str] | None) -> ResolvedTool:
    source = sources.get(source_of(spec.name))
    if source is None:
        return _unusable(spec, *_no_source(spec, sources))
    if problem := source_problem(source):
        return _unusable(spec, *problem, source)
    name = tool_of(spec.name)
    if ("*" in name or "?" in name) and all(tool.name != name for tool in source.tools):
        return _unusable(spec, "TOOL_NOT_FOUND", _no_pattern(source, spec.name))
    if not source.spec.allows(name):
        return _unusable(
            spec,
            "TOOL_DISABLED",
            f'"{spec.name}" is not among the tools that the source "{source.spec.name}" allows',
            source,
        )
    listed = next((tool for tool in source.tools if tool.name == name), None)
    if listed is None:
        return _unusable(spec, "TOOL_NOT_FOUND", _not_listed(source, name), source)
    return of_source(source, listed, spec, pins)


def built_in(tool: Tool, spec: ToolSpec) -> ResolvedTool:
    """Return a built-in tool as a crew uses it."""
    return _narrowed(
        ResolvedTool(
            name=tool.name,
            model_name=model_name(tool.name),
            description=tool.description,
            arguments_schema=tool.arguments_schema,
            hash=tool_hash(tool.name, tool.description, tool.arguments_schema),
            config=spec.config,
            idempotent=tool.is_idempotent(spec.config),
            in_crew_process=tool.in_crew_process,
            in_host=tool.in_host,
        ),
        spec,
    )


def of_source(
    source: ToolSource, listed: ListedTool, spec: ToolSpec, pins: Mapping[str, str] | None = None
) -> ResolvedTool:
    """Return a tool that a source lists as a crew uses it; `pins` are as in `ToolResolver.resolve`."""
    policy = source.spec.policy_for(listed.name)
    pinned = None if pins is None else pins.get(spec.name)
    blocked = _is_blocked(source, listed, pinned)
    default = ResolvedTool(
        name=spec.name,
        model_name=model_name(spec.name),
        description=listed.description,
        arguments_schema=listed.arguments_schema,
        hash=listed.hash,
        config=spec.config,
        idempotent=is_idempotent(source.spec.kind, policy, listed),
        source_id=source.id,
        source_version=source.version,
        approval=policy.approval or ApprovalRule.NEVER,
        approval_condition=policy.approval_condition,
        approval_deadline=policy.approval_deadline,
        approval_on_deadline=policy.approval_on_deadline or OnDeadline.DECLINE,
        outcome_deadline=policy.outcome_deadline,
        polled=bool(policy.polled),
        max_calls=policy.max_calls_per_execution,
        cost=policy.cost or 0,
        problem_reason="TOOL_CHANGED" if blocked else "",
        problem=_changed(source, listed) if blocked else "",
        changed=pins is not None and not blocked and _is_changed(source, listed, pinned),
    )
    timeout = policy.timeout or default.timeout
    within = replace(
        default,
        timeout=timeout,
        max_timeout=max(policy.max_timeout or default.max_timeout, timeout),
        result_limit=policy.result_limit or default.result_limit,
    )
    return _narrowed(within, spec)


def is_idempotent(kind: SourceKind, policy: ToolPolicy, listed: ListedTool) -> bool:
    """Return whether calling a tool twice does no harm, by what the group says or trusts."""
    if policy.idempotent is not None:
        return policy.idempotent
    return bool(listed.idempotent_hint) and (bool(policy.trust_hints) or kind in _TRUSTED_KINDS)


def _is_changed(source: ToolSource, listed: ListedTool, pinned: str | None) -> bool:
    """Whether a tool is neither what the crew was stored with nor what was accepted."""
    accepted = source.accepted.get(listed.name)
    return (
        source.spec.on_change is not OnToolChange.ACCEPT
        and listed.hash != pinned
        and (accepted is None or accepted.hash != listed.hash)
    )


def _is_blocked(source: ToolSource, listed: ListedTool, pinned: str | None) -> bool:
    return source.spec.on_change is OnToolChange.BLOCK and _is_changed(source, listed, pinned)


def _changed(source: ToolSource, listed: ListedTool) -> str:
    parts = next((change.parts for change in source.changes if change.tool == listed.name), ())
    what = f" ({', '.join(parts)})" if parts else ""
    since = f"has changed since it was accepted{what}" if listed.name in source.accepted else "is new at its source"
    return (
        f'the tool "{source.spec.name}/{listed.name}" {since}, and no admin has accepted it; ListToolChanges shows '
        "what is different, and an admin accepts it with AcceptToolChanges"
    )


def _no_source(spec: ToolSpec, sources: Mapping[str, ToolSource]) -> tuple[str, str]:
    name = source_of(spec.name)
    return "TOOL_NOT_FOUND", f'there is no source "{name}" in your group; {suggestion(name, sources)}'


def source_problem(source: ToolSource) -> tuple[str, str] | None:
    """Return why no tool of a source can be used, as a reason and a text."""
    name = source.spec.name
    if source.spec.disabled:
        return "TOOL_DISABLED", f'the source "{name}" is switched off'
    if not source.list_revision:
        why = f": {source.list_error}" if source.list_error else ""
        return "TOOL_UNAVAILABLE", f'the tools of the source "{name}" could not be listed yet{why}'
    return None


def _no_pattern(source: ToolSource, full_name: str) -> str:
    names = [f'"{source.spec.name}/{tool.name}"' for tool in source.tools if source.spec.allows(tool.name)]
    found = [name for name in names if matches(full_name, name.strip('"'))]
    hint = f"name each of {', '.join(found[:5])}{' and so on' if len(found) > 5 else ''}" if found else ""
    return (
        f'"{full_name}" is no name of a tool: in crews "{source.spec.name}/*" alone stands for several; '
        f"{hint or 'and no tool has such a name'}"
    )


def _not_listed(source: ToolSource, name: str) -> str:
    removed = next(
        (change for change in source.changes if change.tool == name and change.kind is ToolChangeKind.REMOVED), None
    )
    known = [f"{source.spec.name}/{tool.name}" for tool in source.tools if source.spec.allows(tool.name)]
    full_name = f"{source.spec.name}/{name}"
    hint = suggestion(full_name, known)
    if removed is not None:
        return f'the source has not listed "{full_name}" since {removed.at:%Y-%m-%d %H:%M} UTC; {hint}'
    return f'the source lists no tool "{full_name}"; {hint}'


def _unusable(spec: ToolSpec, reason: str, problem: str, source: ToolSource | None = None) -> ResolvedTool:
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
        spec=spec,
        source_version="" if source is None else source.version,
    )


def _narrowed(tool: ResolvedTool, spec: ToolSpec) -> ResolvedTool:
    """Return a tool within the limits that a crew sets for itself; those of the tool hold as well.

    Where the crew wants a person to approve calls, nobody's silence is an approval.
    """
    silence_approves = tool.approval_on_deadline is OnDeadline.ACCEPT_DEFAULT
    return replace(
        tool,
        spec=spec,
        approval=ApprovalRule.ALWAYS if spec.requires_approval else tool.approval,
        approval_on_deadline=(
            OnDeadline.DECLINE if spec.requires_approval and silence_approves else tool.approval_on_deadline
        ),
        timeout=tool.timeout if spec.timeout is None else min(tool.timeout, spec.timeout),
        max_calls=min((limit for limit in (tool.max_calls, spec.max_calls) if limit is not None), default=None),
        result_limit=tool.result_limit if spec.result_limit is None else min(tool.result_limit, spec.result_limit),
    )
