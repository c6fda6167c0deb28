"""CrewAI projects as crews: reads ``agents.yaml`` and ``tasks.yaml``."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coxswain.client.crew_file import crew_from
from coxswain.client.documents import DocumentError, Node, Problem, read_document
from coxswain.orchestrator.v1.crew_pb2 import CrewSpec

# CrewAI's word -> ours, where the value keeps its shape.
_AGENT_FIELDS = {
    "role": "role",
    "goal": "goal",
    "backstory": "backstory",
    "function_calling_llm": "function_calling_model",
    "tools": "tools",
    "allow_delegation": "allow_delegation",
    "max_iter": "max_iterations",
    "max_rpm": "max_calls_per_minute",
    "max_execution_time": "max_execution_time",
    "max_retry_limit": "max_retries",
    "temperature": "temperature",
}
_TASK_FIELDS = {
    "description": "description",
    "expected_output": "expected_output",
    "agent": "agent",
    "context": "context",
    "tools": "tools",
    "async_execution": "async_execution",
    "guardrail": "guardrails",
    "guardrails": "guardrails",
    "guardrail_max_retries": "guardrail_max_retries",
    "max_retries": "guardrail_max_retries",
    "human_input": "human_approval",
    "markdown": "markdown",
}
_REMEDIES = {
    "verbose": "not needed: an execution's events show every step",
    "name": "not needed: the key is the name",
    "output_file": "results are kept with the execution: write the file from GetTaskOutputs",
    "create_directory": "results are kept with the execution: write the file from GetTaskOutputs",
    "callback": "Python code cannot be imported: watch the execution's events instead",
    "callbacks": "Python code cannot be imported: watch the execution's events instead",
    "step_callback": "Python code cannot be imported: watch the execution's events instead",
    "allow_code_execution": "agents have tools and no interpreter",
    "code_execution_mode": "agents have tools and no interpreter",
    "knowledge_sources": "put the texts under knowledge in a crew file",
    "embedder": "name the embedding model under memory in a crew file",
    "condition": "Python code cannot be imported: tasks run unconditionally",
    "reasoning": "use planning in a crew file",
}


@dataclass(frozen=True, slots=True)
class ImportedCrew:
    """A crew made from a CrewAI project."""

    spec: CrewSpec
    notes: tuple[Problem, ...]
    """Each setting of the project without a counterpart here: its field path, its line and what to do instead."""


def load_crewai_project(directory: Path | str, *, name: str = "", process: str = "sequential") -> ImportedCrew:
    """The crew of a CrewAI project directory, or of the ``config`` directory in it.

    Agents and tasks keep their keys as names. ``crew.py`` is code and not read: give ``process``, "sequential" or
    "hierarchical", here. ``name`` defaults to the name of the directory.

    Raises OSError when the files are missing and DocumentError when they are not a valid crew.
    """
    found = _config_directory(Path(directory))
    importer = _Importer()
    agents = importer.part(found / "agents.yaml", "agents", importer.agent)
    tasks = importer.part(found / "tasks.yaml", "tasks", importer.task)
    if importer.problems:
        raise DocumentError(found, importer.problems)
    root = {"name": _text(name or _project_name(found)), "agents": agents, "tasks": tasks, "process": _text(process)}
    return ImportedCrew(crew_from(Node(dict(root)), found).spec, tuple(importer.notes))


def _config_directory(directory: Path) -> Path:
    for candidate in (directory, directory / "config", *sorted(directory.glob("src/*/config"))):
        if (candidate / "agents.yaml").is_file() and (candidate / "tasks.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"{directory}: no agents.yaml and tasks.yaml here, in config/ or in src/*/config/")


def _project_name(directory: Path) -> str:
    resolved = directory.resolve()
    return resolved.parent.name if resolved.name == "config" else resolved.name


def _text(value: str) -> Node:
    return Node(value, 0, value)


def _stripped(node: Node) -> Node:
    # Folded blocks end in a line break that the prompt would carry.
    return Node(node.value.strip(), node.line, node.text) if isinstance(node.value, str) else node


class _Importer:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def part(self, file: Path, what: str, convert: Callable[[str, dict[str, Node]], dict[str, Node]]) -> Node:
        """The agents or the tasks of a file, each converted."""
        root = read_document(file)
        if not isinstance(root.value, dict):
            raise DocumentError(file, [Problem(what, f"expected a mapping by name, not {root.kind}", root.line)])
        converted = {}
        for name, node in root.value.items():
            path = f"{what}.{name}"
            if isinstance(node.value, dict):
                converted[name] = Node(convert(path, node.value), node.line)
            else:
                self.problems.append(Problem(path, f"expected a mapping, not {node.kind}", node.line))
        return Node(dict(converted), root.line)

    def agent(self, path: str, given: dict[str, Node]) -> dict[str, Node]:
        fields = self._renamed(path, given, _AGENT_FIELDS, special={"llm"})
        llm = given.get("llm")
        if llm is not None and isinstance(llm.value, dict):
            for key, node in llm.value.items():
                if key in {"model", "temperature"}:
                    fields[key] = node
                else:
                    self._note(f"{path}.llm.{key}", "set it on the model in the models service", node)
        elif llm is not None:
            fields["model"] = llm
        return fields

    def task(self, path: str, given: dict[str, Node]) -> dict[str, Node]:
        fields = self._renamed(path, given, _TASK_FIELDS, special={"output_json", "output_pydantic", "output_schema"})
        for key in ("output_json", "output_pydantic", "output_schema"):
            node = given.get(key)
            if node is None or node.value is None:
                continue
            if isinstance(node.value, dict):
                fields["output_schema"] = node
            else:
                self._note(f"{path}.{key}", "a Python class cannot be imported: write its JSON schema here", node)
        for key in ("guardrail", "guardrails"):
            node = given.get(key)
            if node is not None and isinstance(node.value, str) and re.fullmatch(r"[A-Za-z_][\w.]*", node.value):
                self._note(f"{path}.{key}", "a Python function cannot be imported: say the condition in words", node)
                fields.pop("guardrails", None)
        return fields

    def _renamed(
        self, path: str, given: dict[str, Node], names: dict[str, str], *, special: set[str]
    ) -> dict[str, Node]:
        fields = {}
        for key, node in given.items():
            if key in names:
                fields[names[key]] = _stripped(node)
            elif key not in special:
                self._note(f"{path}.{key}", _REMEDIES.get(key, "has no counterpart and was left out"), node)
        return fields

    def _note(self, field: str, description: str, node: Node) -> None:
        self.notes.append(Problem(field, description, node.line))
