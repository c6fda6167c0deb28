"""What is wrong with a crew by itself: references, order, tools, schemas. Models are asked about elsewhere."""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from google.protobuf.descriptor import Descriptor
from pydantic_core import to_json

from coxswain.orchestrator.v1 import crew_pb2
from services.common.errors import FieldViolation
from services.common.ids import is_id
from services.orchestrator.cron import BadTimeZone, zone_of
from services.orchestrator.domain.crew import (
    CrewSpec,
    KnowledgeMemory,
    KnowledgeSpec,
    MemoryKind,
    MemorySpec,
    Process,
    TaskSpec,
)
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.tool_source import ToolSource
from services.orchestrator.schemas.references import reference_error
from services.orchestrator.schemas.validity import schema_error
from services.orchestrator.suggestions import few_suggestions, suggestion
from services.orchestrator.usecases.output_file_faults import output_file_faults, output_file_warnings
from services.orchestrator.usecases.publications import publication_faults
from services.orchestrator.usecases.schema_warnings import schema_warnings
from services.orchestrator.usecases.tool_faults import tool_faults

_LEAST_NEAR = 0.8
_MOST_FAULTS = 200
"""Of one answer: what refers to each other may have faults with the square of the crew."""
_MOST_STEPS = 10
"""Of a cycle, that are named."""
_PERCENT_CODE = re.compile("%.?", re.DOTALL)
_DATE_CODES = frozenset(f"%{letter}" for letter in "YmdBbAaHMSjUWVZz%")


def crew_faults(
    spec: CrewSpec, sources: Mapping[str, ToolSource], max_bytes: int, pins: Mapping[str, str] | None = None
) -> list[FieldViolation]:
    """Return what keeps the crew from running, the first faults of very many, in the order of the document.

    `sources` are those of the group whose tools it names; `max_bytes` limits the JSON of the document. With `pins`
    tools that have changed since are faults too.
    """
    with few_suggestions():
        faults = chain(
            _size(to_document(spec), max_bytes),
            _blank_texts(spec),
            _duplicates("spec.agents", [agent.name for agent in spec.agents]),
            _duplicates("spec.tasks", [task.name for task in spec.tasks]),
            _knowledge(spec),
            _agents(spec),
            _tools(spec),
            tool_faults(spec, sources, pins),
            _assignments(spec),
            _manager(spec),
            _context(spec),
            _asynchrony(spec),
            _schemas(spec),
            _approvals(spec),
            output_file_faults(spec),
            publication_faults(spec),
        )
        return in_document_order(islice(faults, _MOST_FAULTS))


def crew_warnings(spec: CrewSpec) -> list[FieldViolation]:
    """Return what would run but deserves a look, in the order of the document."""
    warnings: list[FieldViolation] = []
    hierarchical = spec.process is Process.HIERARCHICAL
    used = {task.agent for task in spec.tasks}
    delegating = hierarchical or any(agent.allow_delegation for agent in spec.agents)
    roles: dict[str, str] = {}
    for index, agent in enumerate(spec.agents):
        path = f"spec.agents[{index}]"
        if not delegating and agent.name not in used:
            warnings.append(FieldViolation(path, f'agent "{agent.name}" has no task and no agent may delegate to it'))
        if not agent.inject_date and (agent.date_format or agent.date_time_zone):
            warnings.append(
                FieldViolation(f"{path}.inject_date", "is off: date_format and date_time_zone have no effect")
            )
        if agent.allow_delegation and len(spec.agents) == 1:
            warnings.append(
                FieldViolation(f"{path}.allow_delegation", "has no effect: there is no other agent to delegate to")
            )
        # How crewai compares roles when work is delegated.
        role = " ".join(agent.role.split()).replace('"', "").casefold()
        if delegating and role in roles:
            warnings.append(
                FieldViolation(
                    f"{path}.role", f'is also the role of agent "{roles[role]}", who then gets all work delegated to it'
                )
            )
        roles.setdefault(role, agent.name)
    if not hierarchical:
        for field in ("manager_model", "manager_agent"):
            if getattr(spec, field):
                warnings.append(
                    FieldViolation(f"spec.{field}", "has no effect: only a HIERARCHICAL crew has a manager")
                )
    elif spec.manager_agent and spec.manager_model:
        warnings.append(
            FieldViolation("spec.manager_model", "has no effect: manager_agent manages, with a model of its own")
        )
    if spec.planning_model and not spec.planning:
        warnings.append(FieldViolation("spec.planning_model", "has no effect: planning is off"))
    if not spec.memory.enabled and spec.memory != MemorySpec():
        warnings.append(FieldViolation("spec.memory", "has no effect: memory is not enabled"))
    else:
        warnings += _memory_warnings(spec.memory)
    warnings += output_file_warnings(spec)
    warnings += schema_warnings(spec)
    return in_document_order(warnings)


def _memory_warnings(memory: MemorySpec) -> Iterator[FieldViolation]:
    if memory.model and not memory.asks_model:
        yield FieldViolation("spec.memory.model", "has no effect: neither analysis nor consolidation asks a model")
    for field in ("near_copy_similarity", "consolidation"):
        if memory.read_only and getattr(memory, field):
            yield FieldViolation(f"spec.memory.{field}", "has no effect: the memory is read_only")
    if 0 < memory.near_copy_similarity < _LEAST_NEAR:
        yield FieldViolation(
            "spec.memory.near_copy_similarity",
            f"is below {_LEAST_NEAR}: memories that merely have a subject in common may replace each other",
        )


def in_document_order(faults: Iterable[FieldViolation]) -> list[FieldViolation]:
    """Return faults sorted by where their fields stand in the message; faults of one field keep their order."""
    return sorted(faults, key=lambda fault: _position(fault.field))


_SEGMENT = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def _position(path: str) -> list[int]:
    part: Descriptor | None = crew_pb2.ValidateCrewRequest.DESCRIPTOR
    position = []
    for name, index in _SEGMENT.findall(path):
        if index:
            position.append(int(index))
            continue
        field = part.fields_by_name.get(name) if part is not None else None
        position.append(field.number if field is not None else sys.maxsize)
        part = field.message_type if field is not None else None
    return position


def _size(document: Any, max_bytes: int) -> Iterator[FieldViolation]:
    size = len(to_json(document))
    if size > max_bytes:
        yield FieldViolation(
            "spec", f"has {size} bytes as JSON and may have {max_bytes}; shorten its texts or its knowledge"
        )


def _blank_texts(spec: CrewSpec) -> Iterator[FieldViolation]:
    texts = [("spec.name", spec.name)]
    for index, agent in enumerate(spec.agents):
        texts += [(f"spec.agents[{index}].{field}", getattr(agent, field)) for field in ("name", "role", "goal")]
    for index, task in enumerate(spec.tasks):
        path = f"spec.tasks[{index}]"
        texts += [(f"{path}.{field}", getattr(task, field)) for field in ("name", "description", "expected_output")]
        texts += [(f"{path}.guardrails[{n}]", guardrail) for n, guardrail in enumerate(task.guardrails)]
    for path, text in texts:
        if not text.strip():
            yield FieldViolation(path, "must have some text")
        elif path.endswith("name") and any(unicodedata.category(character) == "Cc" for character in text):
            yield FieldViolation(path, "must not have line breaks or other control characters")


def _duplicates(path: str, names: Sequence[str]) -> Iterator[FieldViolation]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            yield FieldViolation(f"{path}[{index}].name", f'"{name}" is already the name of {path}[{first[name]}]')
        first.setdefault(name, index)


def knowledge_memories(spec: CrewSpec) -> Iterator[tuple[str, KnowledgeMemory]]:
    """Yield the memories that agents can look things up in, each with its path."""
    for path, sources in _knowledge_lists(spec):
        for index, source in enumerate(sources):
            if source.memory is not None:
                yield f"{path}[{index}].memory", source.memory


def _knowledge_lists(spec: CrewSpec) -> list[tuple[str, Sequence[KnowledgeSpec]]]:
    return [
        ("spec.knowledge", spec.knowledge),
        *((f"spec.agents[{index}].knowledge", agent.knowledge) for index, agent in enumerate(spec.agents)),
    ]


def _knowledge(spec: CrewSpec) -> Iterator[FieldViolation]:
    for path, sources in _knowledge_lists(spec):
        yield from _duplicates(path, [source.name for source in sources])
    for path, memory in knowledge_memories(spec):
        yield from _knowledge_memory(path, memory)


def _knowledge_memory(path: str, memory: KnowledgeMemory) -> Iterator[FieldViolation]:
    if memory.document_ids and memory.kind is not MemoryKind.DOCUMENT:
        yield FieldViolation(f"{path}.document_ids", "selects documents: set kind DOCUMENT, or leave it empty")
    if memory.kind is MemoryKind.DOCUMENT:
        if memory.memory_id:
            yield FieldViolation(f"{path}.memory_id", "documents belong to the whole group: leave it empty")
    elif not memory.memory_id:
        yield FieldViolation(
            f"{path}.memory_id",
            "is empty; GetCrew returns the memory_id of a stored crew. For the group's documents set kind to DOCUMENT",
        )
    elif is_id(memory.memory_id):
        yield FieldViolation(
            f"{path}.memory_id", "this looks like a stored crew's id; use the crew's memory_id, which GetCrew returns"
        )
    elif memory.memory_id != memory.memory_id.strip() or not memory.memory_id.isprintable():
        yield FieldViolation(
            f"{path}.memory_id", "must not have spaces at its ends, line breaks or other control characters"
        )
    if memory.scope and memory.kind is not MemoryKind.UNIFIED:
        yield FieldViolation(f"{path}.scope", f"{memory.kind} records have no scopes: leave it empty")


def _agents(spec: CrewSpec) -> Iterator[FieldViolation]:
    for index, agent in enumerate(spec.agents):
        if agent.max_execution_time is not None and agent.max_execution_time < 1:
            yield FieldViolation(f"spec.agents[{index}].max_execution_time", "must be at least one second")
        try:
            zone_of(agent.date_time_zone)
        except BadTimeZone as error:
            yield FieldViolation(f"spec.agents[{index}].date_time_zone", str(error))
        codes = _PERCENT_CODE.findall(agent.date_format)
        if agent.date_format and (not set(codes) - {"%%"} or not set(codes) <= _DATE_CODES):
            yield FieldViolation(
                f"spec.agents[{index}].date_format",
                f"needs a code of a part of the date, such as %Y, and no others than {' '.join(sorted(_DATE_CODES))}",
            )


def _tools(spec: CrewSpec) -> Iterator[FieldViolation]:
    for index, agent in enumerate(spec.agents):
        yield from _duplicates(f"spec.agents[{index}].tools", [tool.name for tool in agent.tools])
    for index, task in enumerate(spec.tasks):
        yield from _duplicates(f"spec.tasks[{index}].tools", [tool.name for tool in task.tools])


def _assignments(spec: CrewSpec) -> Iterator[FieldViolation]:
    agents = [agent.name for agent in spec.agents]
    for index, task in enumerate(spec.tasks):
        path = f"spec.tasks[{index}]"
        if not task.agent:
            if spec.process is Process.SEQUENTIAL:
                yield FieldViolation(
                    f"{path}.agent", "a task of a SEQUENTIAL crew needs an agent; name one of the crew"
                )
        elif task.agent not in agents:
            yield FieldViolation(f"{path}.agent", f'there is no agent "{task.agent}"; {suggestion(task.agent, agents)}')


def _manager(spec: CrewSpec) -> Iterator[FieldViolation]:
    if spec.process is not Process.HIERARCHICAL or not spec.manager_agent:
        return
    names = [agent.name for agent in spec.agents]
    if spec.manager_agent not in names:
        yield FieldViolation(
            "spec.manager_agent", f'there is no agent "{spec.manager_agent}"; {suggestion(spec.manager_agent, names)}'
        )
        return
    if len(spec.agents) == 1:
        yield FieldViolation("spec.manager_agent", "needs at least one other agent to manage")
    if spec.agents[names.index(spec.manager_agent)].tools:
        yield FieldViolation(
            f"spec.agents[{names.index(spec.manager_agent)}].tools", "an agent that manages cannot have tools"
        )
    for index, task in enumerate(spec.tasks):
        if task.agent == spec.manager_agent:
            yield FieldViolation(
                f"spec.tasks[{index}].agent", f'"{task.agent}" manages the crew and cannot do a task itself'
            )


def _context(spec: CrewSpec) -> Iterator[FieldViolation]:
    names = [task.name for task in spec.tasks]
    positions = {name: index for index, name in reversed(list(enumerate(names)))}
    for index, task in enumerate(spec.tasks):
        for position, name in enumerate(task.context or ()):
            path = f"spec.tasks[{index}].context.tasks[{position}]"
            if name not in positions:
                yield FieldViolation(path, f'there is no task "{name}"; {suggestion(name, names)}')
            elif name == task.name:
                yield FieldViolation(path, "a task cannot be its own context")
            elif positions[name] >= index:
                cycle = _cycle_through(spec.tasks, task.name, name)
                if cycle:
                    yield FieldViolation(path, f"closes a cycle: {_shown(cycle)}")
                else:
                    yield FieldViolation(path, f'task "{name}" comes after this one; only earlier tasks can be context')


def _shown(cycle: Sequence[str]) -> str:
    steps = [f'"{step}"' for step in cycle]
    if len(steps) > _MOST_STEPS:
        steps[_MOST_STEPS - 1 : -1] = [f"{len(steps) - _MOST_STEPS} others"]
    return " -> ".join(steps)


def _cycle_through(tasks: Sequence[TaskSpec], start: str, first: str) -> list[str]:
    """Return the tasks of a cycle that begins with `start` and goes to `first`, or nothing when there is none."""
    contexts = {task.name: task.context or () for task in tasks}
    pending: list[list[str]] = [[start, first]]
    seen = {first}
    while pending:
        path = pending.pop(0)
        for name in contexts.get(path[-1], ()):
            if name == start:
                return [*path, name]
            if name not in seen:
                seen.add(name)
                pending.append([*path, name])
    return []


def _asynchrony(spec: CrewSpec) -> Iterator[FieldViolation]:
    tasks = spec.tasks
    trailing = 0
    while trailing < len(tasks) and tasks[-1 - trailing].async_execution:
        trailing += 1
    if trailing > 1:
        yield FieldViolation(
            f"spec.tasks[{len(tasks) - 1}].async_execution",
            "a crew may end with one asynchronous task at most; put a synchronous one between or after them",
        )
    for index, task in enumerate(tasks):
        if not task.async_execution:
            continue
        # The asynchronous tasks right before this one run beside it: their results are not there yet.
        beside = set()
        for earlier in reversed(tasks[:index]):
            if not earlier.async_execution:
                break
            beside.add(earlier.name)
        for position, name in enumerate(task.context or ()):
            if name in beside:
                yield FieldViolation(
                    f"spec.tasks[{index}].context.tasks[{position}]",
                    f'task "{name}" runs beside this one; put a synchronous task between them',
                )


def _schemas(spec: CrewSpec) -> Iterator[FieldViolation]:
    for index, task in enumerate(spec.tasks):
        if task.output_schema is None:
            continue
        path = f"spec.tasks[{index}].output_schema"
        if error := schema_error(task.output_schema):
            yield FieldViolation(path, f"is not a valid JSON schema: {error}")
        elif task.output_schema.get("type") != "object":
            yield FieldViolation(path, 'must describe an object: set "type" to "object"')
        elif lost := reference_error(task.output_schema):
            yield FieldViolation(path, lost)


def _approvals(spec: CrewSpec) -> Iterator[FieldViolation]:
    for index, task in enumerate(spec.tasks):
        if task.approval is not None and not task.human_approval:
            yield FieldViolation(
                f"spec.tasks[{index}].approval",
                "has no effect without human_approval: set that to true or leave this out",
            )
