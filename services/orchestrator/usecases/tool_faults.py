"""What is wrong with the tools that a crew names."""

from collections.abc import Iterator, Mapping, Sequence

from services.common.errors import FieldViolation
from services.orchestrator.domain.crew import AgentSpec, CrewSpec, TaskSpec, ToolSpec
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import ToolSource
from services.orchestrator.setting_faults import setting_faults
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_identity import collisions, source_of, tool_of
from services.orchestrator.tool_resolver import EVERY_TOOL, MAX_TOOLS_PER_AGENT, resolve_tools


def tool_faults(
    spec: CrewSpec, sources: Mapping[str, ToolSource], pins: Mapping[str, str] | None = None
) -> list[FieldViolation]:
    """Return what keeps agents from using the tools that a crew names.

    `sources` are those of the group that it names; with `pins` also tools that have changed since are faults. It may
    take a second where sources have many tools and policies: not in an event loop.
    """
    known = _KnownTools(sources, pins)
    faults: list[FieldViolation] = []
    for path, part in _owners(spec):
        for index, tool in enumerate(part.tools):
            faults += _faults_of_one(f"{path}.tools[{index}]", tool, known)
            faults += _faults_of_search(f"{path}.tools[{index}]", tool, spec)
        faults += _faults_of_all(f"{path}.tools", part.tools, known)
    agents = {agent.name: agent for agent in spec.agents}
    for index, task in enumerate(spec.tasks):
        agent = agents.get(task.agent)
        if task.tools and agent is not None and agent.tools:
            faults += _faults_of_all(f"spec.tasks[{index}].tools", (*agent.tools, *task.tools), known)
    return faults


class _KnownTools:
    """The tools of a group as crews name them, each name resolved once."""

    def __init__(self, sources: Mapping[str, ToolSource], pins: Mapping[str, str] | None) -> None:
        self._sources = sources
        self._pins = pins
        self._resolved: dict[str, list[ResolvedTool]] = {}

    def named(self, name: str) -> list[ResolvedTool]:
        """Return what a name stands for, with the limits of its source alone."""
        if name not in self._resolved:
            self._resolved[name] = resolve_tools([ToolSpec(name)], self._sources, self._pins)
        return self._resolved[name]


def tool_warnings(
    spec: CrewSpec, sources: Mapping[str, ToolSource], unavailable: Mapping[str, str]
) -> list[FieldViolation]:
    """Return what is to be said of tools that a crew can name, and that would be of no use to it now.

    `unavailable` says why built-in tools cannot be used, by name.
    """
    warnings: list[FieldViolation] = []
    for path, part in _owners(spec):
        for index, tool in enumerate(part.tools):
            name = f"{path}.tools[{index}].name"
            if problem := unavailable.get(tool.name):
                warnings.append(FieldViolation(name, f"cannot be used now: {problem}"))
            elif tool_of(tool.name) == EVERY_TOOL and not resolve_tools([tool], sources):
                warnings.append(
                    FieldViolation(
                        name,
                        f'"{tool.name}" stands for no tool now: the source "{source_of(tool.name)}" lists none that is '
                        "allowed and accepted",
                    )
                )
    return warnings


def names_gateway_tools(spec: CrewSpec) -> bool:
    """Return whether a crew names tools of the gateway's own."""
    named = (TOOLS.get(tool.name) for _path, part in _owners(spec) for tool in part.tools)
    return any(tool is not None and not tool.in_crew_process and not tool.in_host for tool in named)


def crew_pins(spec: CrewSpec, sources: Mapping[str, ToolSource]) -> dict[str, str]:
    """Return the hashes of the tools of sources that a crew uses, as they are now, by their names."""
    specs = [tool for _path, part in _owners(spec) for tool in part.tools if source_of(tool.name)]
    return {tool.name: tool.hash for tool in resolve_tools(specs, sources) if tool.hash}


def changed_tools(spec: CrewSpec, sources: Mapping[str, ToolSource], pins: Mapping[str, str]) -> list[ResolvedTool]:
    """Return the tools that are not what a crew was stored with, and may be called although, by name."""
    specs = [tool for _path, part in _owners(spec) for tool in part.tools if source_of(tool.name)]
    return sorted((tool for tool in resolve_tools(specs, sources, pins) if tool.changed), key=lambda tool: tool.name)


def _owners(spec: CrewSpec) -> Iterator[tuple[str, AgentSpec | TaskSpec]]:
    yield from ((f"spec.agents[{index}]", agent) for index, agent in enumerate(spec.agents))
    yield from ((f"spec.tasks[{index}]", task) for index, task in enumerate(spec.tasks))


def _faults_of_one(path: str, spec: ToolSpec, known: _KnownTools) -> Iterator[FieldViolation]:
    tools = known.named(spec.name)
    problems = list(dict.fromkeys(tool.problem for tool in tools if tool.problem))
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        yield FieldViolation(f"{path}.name", "; ".join(problems[:3]) + more)
        return
    yield from setting_faults(spec, f"{path}.config")
    if tool_of(spec.name) != EVERY_TOOL:
        for tool in tools:
            yield from _without_effect(path, spec) if tool.in_crew_process else _wider(path, spec, tool)


def _faults_of_search(path: str, tool: ToolSpec, spec: CrewSpec) -> Iterator[FieldViolation]:
    if tool.name == "memory_search" and not spec.memory.enabled:
        yield FieldViolation(f"{path}.name", "searches the crew's memory, which is off; set spec.memory.enabled")
    of_memory = tool.name == "document_search" and tool.config.get("kind", "document") != "document"
    if of_memory and not tool.config.get("memory_id"):
        yield FieldViolation(
            f"{path}.config.memory_id", "is missing; only documents belong to the whole group and have none"
        )
    if of_memory and tool.config.get("document_ids"):
        yield FieldViolation(f"{path}.config.document_ids", "selects documents; leave it out, or kind")


def _without_effect(path: str, spec: ToolSpec) -> Iterator[FieldViolation]:
    """Yield the limits of a pure tool, whose calls no host sees before they are made."""
    for field in ("requires_approval", "timeout", "max_calls", "result_limit"):
        if getattr(spec, field) not in (None, False):
            yield FieldViolation(
                f"{path}.{field}", "has no effect on a tool that only computes where the crew runs; leave it out"
            )


def _wider(path: str, spec: ToolSpec, tool: ResolvedTool) -> Iterator[FieldViolation]:
    """Yield the limits that are wider than what the tool has anyway."""
    for field, wanted, allowed, unit in (
        ("timeout", spec.timeout, tool.timeout, " s"),
        ("max_calls", spec.max_calls, tool.max_calls, " calls"),
        ("result_limit", spec.result_limit, tool.result_limit, " bytes"),
    ):
        if wanted is not None and allowed is not None and wanted > allowed:
            yield FieldViolation(
                f"{path}.{field}", f"may be at most {allowed:g}{unit}: a crew cannot widen what its tools are allowed"
            )


def _faults_of_all(path: str, specs: Sequence[ToolSpec], known: _KnownTools) -> Iterator[FieldViolation]:
    names = list(dict.fromkeys(tool.name for spec in specs for tool in known.named(spec.name) if not tool.problem))
    if len(names) > MAX_TOOLS_PER_AGENT:
        yield FieldViolation(
            path,
            f"come to {len(names)} tools, and an agent may have {MAX_TOOLS_PER_AGENT}; name those that it needs, or "
            "allow fewer in the source",
        )
        return
    for first, second in collisions(names):
        yield FieldViolation(path, f'"{first}" and "{second}" would have one name for models; use only one of them')
