"""Crews: agents, tasks, and what they are given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.common.identity.principal import Role
from services.orchestrator.domain.a2a import A2ASpec
from services.orchestrator.domain.limits import ExecutionLimits

_NOT_IN_SCOPES = re.compile("[^a-z0-9_]+")


class Process(StrEnum):
    """How a crew's tasks are worked off."""

    SEQUENTIAL = "SEQUENTIAL"
    HIERARCHICAL = "HIERARCHICAL"


class OnDeadline(StrEnum):
    """What becomes of an unanswered question; the names are those of `coxswain.orchestrator.v1.OnDeadline`."""

    DECLINE = "DECLINE"
    CANCEL = "CANCEL"
    ACCEPT_DEFAULT = "ACCEPT_DEFAULT"


class ToolCalling(StrEnum):
    """How an agent's model calls tools; the names are those of `coxswain.orchestrator.v1.ToolCalling`."""

    UNSPECIFIED = "UNSPECIFIED"
    AUTOMATIC = "AUTOMATIC"
    NATIVE = "NATIVE"
    IN_WORDS = "IN_WORDS"


class OnCutOff(StrEnum):
    """What becomes of a task with an answer that is cut off; the names are those of the proto."""

    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class ModelCallSettings:
    """How models are called. None and UNSPECIFIED leave it open; durations are in seconds."""

    timeout: float | None = None
    first_token_timeout: float | None = None
    tool_calling: ToolCalling = ToolCalling.UNSPECIFIED

    def or_else(self, other: "ModelCallSettings") -> "ModelCallSettings":
        """Return these settings, with those of another one in the place of what they leave open."""
        tool_calling = self.tool_calling if self.tool_calling is not ToolCalling.UNSPECIFIED else other.tool_calling
        return ModelCallSettings(
            self.timeout or other.timeout, self.first_token_timeout or other.first_token_timeout, tool_calling
        )


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool, or all of a source as `source/*`, with settings and with limits that only narrow those of the tool."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    requires_approval: bool = False
    timeout: float | None = None
    """Seconds without a sign of the tool."""
    max_calls: int | None = None
    """In one execution."""
    result_limit: int | None = None
    """Bytes of a result that the model gets at once."""


class MemoryKind(StrEnum):
    """What a record of the memory service holds; the names are those of `coxswain.memory.v1.MemoryKind`."""

    UNIFIED = "UNIFIED"
    SHORT_TERM = "SHORT_TERM"
    LONG_TERM = "LONG_TERM"
    ENTITY = "ENTITY"
    DOCUMENT = "DOCUMENT"


@dataclass(frozen=True, slots=True)
class KnowledgeMemory:
    """Records of the memory service that agents can look things up in. Documents have no memory id."""

    memory_id: str = ""
    kind: MemoryKind = MemoryKind.UNIFIED
    scope: str = ""
    """For UNIFIED; empty: all scopes."""
    document_ids: tuple[str, ...] = ()
    """For DOCUMENT; empty: all documents."""


@dataclass(frozen=True, slots=True)
class KnowledgeSpec:
    """A text or a memory that agents can look things up in; without a memory it is the text."""

    name: str
    content: str = ""
    memory: KnowledgeMemory | None = None


@dataclass(frozen=True, slots=True)
class OutputLength:
    """A range of lengths; 0 means that an end is open."""

    min: int = 0
    max: int = 0


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """A condition on a result that needs no model; one of the fields before `message` is set."""

    matches: str = ""
    matches_not: str = ""
    characters: OutputLength | None = None
    words: OutputLength | None = None
    json_schema: dict[str, Any] | None = None
    required_words: tuple[str, ...] = ()
    forbidden_words: tuple[str, ...] = ()
    expression: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent. Empty model names mean the crew's; durations are in seconds."""

    name: str
    role: str
    goal: str
    backstory: str = ""
    model: str = ""
    function_calling_model: str = ""
    tools: tuple[ToolSpec, ...] = ()
    allow_delegation: bool = False
    max_iterations: int = 25
    max_calls_per_minute: int | None = None
    max_execution_time: float | None = None
    max_retries: int = 2
    temperature: float | None = None
    knowledge: tuple[KnowledgeSpec, ...] = ()
    max_tokens: int | None = None
    reasoning_effort: str = ""
    planning: bool = False
    inject_date: bool = False
    date_format: str = ""
    date_time_zone: str = ""
    checks: tuple[OutputCheck, ...] = ()
    model_calls: ModelCallSettings = field(default_factory=ModelCallSettings)
    """As written: what it leaves open is the crew's."""


@dataclass(frozen=True, slots=True)
class ApprovalSpec:
    """How people are asked to approve a result. An empty question means the default one; the deadline is in seconds."""

    question: str = ""
    role: Role = Role.EDITOR
    deadline: float | None = None
    on_deadline: OnDeadline = OnDeadline.DECLINE


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task. `context` None: all earlier results for a synchronous task, none for an asynchronous one."""

    name: str
    description: str
    expected_output: str
    agent: str = ""
    context: tuple[str, ...] | None = None
    tools: tuple[ToolSpec, ...] = ()
    async_execution: bool = False
    output_schema: dict[str, Any] | None = None
    guardrails: tuple[str, ...] = ()
    guardrail_max_retries: int = 3
    human_approval: bool = False
    markdown: bool = False
    approval: ApprovalSpec | None = None
    checks: tuple[OutputCheck, ...] = ()
    condition: str = ""
    on_cut_off: OnCutOff = OnCutOff.WARN
    output_file: str = ""
    """Name of the file that the result is stored in, with placeholders; empty for none."""


class RecallMode(StrEnum):
    """How memories are found; the names are those of `coxswain.memory.v1.SearchMode`."""

    VECTOR = "VECTOR"
    HYBRID = "HYBRID"
    TEXT = "TEXT"


@dataclass(frozen=True, slots=True)
class RecallSpec:
    """How memories are found and ordered; weights that are None, and days that are 0, are CrewAI's own."""

    mode: RecallMode = RecallMode.VECTOR
    diversity: float | None = None
    semantic_weight: float | None = None
    recency_weight: float | None = None
    importance_weight: float | None = None
    recency_half_life_days: int = 0


@dataclass(frozen=True, slots=True)
class ConsolidationSpec:
    """When a model compares a new memory with those there are; None and 0 stand for CrewAI's own values."""

    similarity: float | None = None
    limit: int = 0


@dataclass(frozen=True, slots=True)
class MemorySpec:
    """What a crew remembers."""

    enabled: bool = False
    embedding_model: str = ""
    run_name: str = ""
    analysis: bool = False
    name: str = ""
    """What its id follows from; empty: from the crew."""
    model: str = ""
    near_copy_similarity: float = 0.0
    consolidation: ConsolidationSpec | None = None
    recall: RecallSpec = field(default_factory=RecallSpec)
    read_only: bool = False

    @property
    def asks_model(self) -> bool:
        """Whether a model is asked about memories."""
        return self.enabled and (self.analysis or (self.consolidation is not None and not self.read_only))


@dataclass(frozen=True, slots=True)
class CrewSpec:
    """The whole of a crew. Agents and tasks refer to each other by name; an empty model is the default one."""

    name: str
    agents: tuple[AgentSpec, ...]
    tasks: tuple[TaskSpec, ...]
    description: str = ""
    process: Process = Process.SEQUENTIAL
    model: str = ""
    manager_model: str = ""
    manager_agent: str = ""
    planning: bool = False
    planning_model: str = ""
    memory: MemorySpec = field(default_factory=MemorySpec)
    knowledge: tuple[KnowledgeSpec, ...] = ()
    limits: ExecutionLimits = field(default_factory=ExecutionLimits)
    model_calls: ModelCallSettings = field(default_factory=ModelCallSettings)
    a2a: A2ASpec = field(default_factory=A2ASpec)

    def model_calls_of(self, agent: str) -> ModelCallSettings:
        """Return how the models of an agent are called, or (an empty name) those of the crew itself."""
        own = next((known.model_calls for known in self.agents if known.name == agent), ModelCallSettings())
        return own.or_else(self.model_calls)

    @property
    def knowledge_memories(self) -> list[KnowledgeMemory]:
        """The memories that it or one of its agents may look things up in."""
        sources = [*self.knowledge, *(source for agent in self.agents for source in agent.knowledge)]
        return [source.memory for source in sources if source.memory is not None]

    @property
    def tool_sources(self) -> frozenset[str]:
        """Names of the sources whose tools its agents and tasks use."""
        lists = [*(agent.tools for agent in self.agents), *(task.tools for task in self.tasks)]
        return frozenset(tool.name.partition("/")[0] for tools in lists for tool in tools if "/" in tool.name)

    @property
    def memory_scope(self) -> str:
        """The scope that all of its memories are in, as CrewAI would call it."""
        name = _NOT_IN_SCOPES.sub("-", (self.memory.name or self.name).lower().strip()).strip("-")
        return f"/crew/{name or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Crew:
    """A stored crew at one revision."""

    id: str
    group_id: str
    revision: int
    spec: CrewSpec
    created_at: datetime
    updated_at: datetime
    """When this revision was stored."""
    memory_id: str | None = ""
    """Under which its memories are stored; empty when memory is off, None when it was stored before this was kept."""
    tool_pins: Mapping[str, str] | None = None
    """Hashes of the tools of sources that it was stored with, by their names; None when this was not kept."""
    changed_tools: tuple[str, ...] = ()
    """Tools that are no longer what it was stored with, as far as that was asked for."""
