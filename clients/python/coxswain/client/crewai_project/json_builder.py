"""Puts the document of a crew together from ``crew.jsonc`` and ``agents/NAME.jsonc``: a project without code."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from coxswain.client.crew_file import CrewDocument, crew_from
from coxswain.client.crewai_project import fields, tool_classes
from coxswain.client.crewai_project.layout import Home, json_file
from coxswain.client.crewai_project.memory_fields import memory_fields
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.crewai_project.python_source import Sources
from coxswain.client.documents import DocumentError, Node, Problem, read_document

Part = dict[str, Node]

_SAME = {"name", "process", "memory", "planning", "manager_agent"}
_MODELS = {"manager_llm": "manager_model", "planning_llm": "planning_model"}
_PYTHON = "Python code cannot be imported and was left out"
_CUSTOM = "custom:"


class JsonBuilder:
    """Builds the document of one crew."""

    def __init__(self, home: Home, given: Path, sources: Sources, notes: Notes, tools: Mapping[str, str]) -> None:
        assert home.described is not None
        self._file = home.described
        self._given = given
        self._sources = sources
        self._notes = notes
        self._tools = tools
        self._problems: list[Problem] = []

    def document(self, name: str, process: str) -> CrewDocument:
        """The crew. Raises DocumentError with everything that keeps the project from being one."""
        root = self._read(self._file)
        made = self._crew(root)
        for key, given in (("name", name), ("process", process)):
            if given:
                made[key] = Node(given, 0, given)
        made.setdefault("name", Node(self._file.parent.resolve().name))
        agents, tasks = self._agents(root), self._tasks(root)
        for what, parts in (("agents", agents), ("tasks", tasks)):
            listed = root.get(what)
            made[what] = Node({**parts}, listed.line if listed else 1, None, self._sources.shown(self._file))
        if str(made.get("process", Node("sequential")).value).lower() == "sequential":
            self._need_agents(tasks, agents)
        if self._problems:
            raise DocumentError(self._given, self._problems)
        return crew_from(Node({**made}), self._given)

    def _read(self, path: Path) -> Part:
        """The entries of a file. Raises DocumentError when it holds something else."""
        root = read_document(path).in_file(self._sources.shown(path))
        if not isinstance(root.value, dict):
            raise DocumentError(path, [Problem("", f"expected an object, not {root.kind}", root.line)])
        return root.value

    def _crew(self, root: Part) -> Part:
        made: Part = {}
        for key, node in self._settings("crew", root).items():
            if key in {"agents", "tasks"}:
                continue
            if key in _SAME and isinstance(node.value, bool if key in {"memory", "planning"} else str):
                made[key] = node
            elif key == "memory" and isinstance(node.value, dict):
                made[key] = replace(node, value={**self._memory(node.value)})
            elif key in _MODELS and (model := self._model(f"crew.{key}", node)) is not None:
                made[_MODELS[key]] = model
            elif key == "inputs" and isinstance(node.value, dict):
                names = ", ".join(node.value) or "none"
                self._notes.at("crew.inputs", f"inputs are given to each execution: {names}", node)
            elif key not in _MODELS:
                self._notes.at(f"crew.{key}", fields.remedy(key), node)
        return made

    def _memory(self, given: Part) -> Part:
        """The settings of a memory."""
        settings = {key: node for key, node in given.items() if node.value is not None}
        if "llm" in settings and (model := self._model("crew.memory.llm", settings.pop("llm"))) is not None:
            settings["llm"] = model
        return memory_fields("crew.memory", settings, self._notes)

    def _model(self, path: str, node: Node) -> Node | None:
        """The name of a model, which may be that of an object."""
        if isinstance(node.value, dict):
            for key, one in node.value.items():
                if key != "model":
                    self._notes.at(f"{path}.{key}", "set it on the model in the models service", one)
            return node.value.get("model")
        return node

    def _agents(self, root: Part) -> Part:
        """Every agent that the crew names, from its own file."""
        names = self._list(root, "agents")
        manager = root.get("manager_agent")
        if manager is not None and isinstance(manager.value, str) and manager.value:
            names.append(manager)
        agents: Part = {}
        for node in names:
            if not isinstance(node.value, str) or node.value in agents:
                if not isinstance(node.value, str):
                    self._problems.append(Problem("agents", "write the name of an agent's file", node.line, node.file))
                continue
            file = self._agent_file(node.value)
            if file is None:
                what = f"there is no agents/{node.value}.jsonc beside {self._file.name}"
                self._problems.append(Problem("agents", what, node.line, node.file))
                continue
            given = self._read(file)
            settings = given.pop("settings", None)
            if settings is not None and isinstance(settings.value, dict):
                given |= settings.value
            path = f"agents.{node.value}"
            entry = self._part(path, given)
            agents[node.value] = Node(
                {**fields.agent_fields(path, entry, self._notes)}, 1, None, self._sources.shown(file)
            )
        return agents

    def _agent_file(self, name: str) -> Path | None:
        file = json_file(self._file.parent / "agents", name) if Path(name).name == name else None
        return file if file is not None and self._sources.holds(file) else None

    def _tasks(self, root: Part) -> Part:
        tasks: Part = {}
        for number, node in enumerate(self._list(root, "tasks"), start=1):
            if not isinstance(node.value, dict):
                what = f"expected an object, not {node.kind}"
                self._problems.append(Problem(f"tasks[{number - 1}]", what, node.line, node.file))
                continue
            given = dict(node.value)
            named = given.pop("name", None)
            name = str(named.value) if named is not None and named.value else f"task_{number}"
            if name in tasks:
                self._problems.append(Problem(f"tasks.{name}", "the name of another task", node.line, node.file))
                continue
            path = f"tasks.{name}"
            entry = self._part(path, given)
            tasks[name] = replace(node, value={**fields.task_fields(path, entry, self._notes)})
        return tasks

    def _list(self, root: Part, what: str) -> list[Node]:
        node = root.get(what)
        if node is not None and isinstance(node.value, list) and node.value:
            return list(node.value)
        line, file = (node.line, node.file) if node else (1, self._sources.shown(self._file))
        self._problems.append(Problem(what, "expected a list that is not empty", line, file))
        return []

    def _part(self, path: str, given: Part) -> Part:
        """What an agent or a task says, with the tools that are here."""
        entry = self._settings(path, given)
        tools = entry.get("tools")
        if tools is not None and isinstance(tools.value, list):
            entry["tools"] = replace(tools, value=self._tools_of(tools.value))
        return entry

    def _settings(self, path: str, given: Part) -> Part:
        """The settings that say something: not what is so anyway, and no references to code, which are noted."""
        entry: Part = {}
        for key, node in given.items():
            value = node.plain()
            if value in (None, [], {}) or key == "verbose" or fields.is_as_here(key, value):
                continue
            if isinstance(value, dict) and "python" in value:
                wrong = "a Python class cannot be imported: write its JSON schema here"
                if key not in fields.OUTPUTS:
                    wrong = fields.FUNCTION if "guardrail" in key else _PYTHON
                self._notes.at(f"{path}.{key}", wrong, node)
            else:
                entry[key] = node
        return entry

    def _tools_of(self, given: list[Node]) -> list[Node]:
        found: list[Node] = []
        for node in given:
            name = node.value
            if not isinstance(name, str):
                self._notes.at("tools", "write the name of a tool", node)
            elif name.removeprefix(_CUSTOM) in self._tools:
                found.append(replace(node, value=self._tools[name.removeprefix(_CUSTOM)]))
            elif name.startswith(_CUSTOM):
                own = name.removeprefix(_CUSTOM)
                self._notes.shared(own, tool_classes.instead(own, is_own=True), node.line, node.file)
            elif (known := tool_classes.counterpart(name, has_settings=False)) is not None:
                found.append(replace(node, value=known.name, text=known.name))
                self._notes.shared(name, f"became {known.name}: {known.differs}", node.line, node.file)
            elif name[:1].isupper():
                self._notes.shared(name, tool_classes.instead(name, is_own=False), node.line, node.file)
            else:
                found.append(node)
        return found

    def _need_agents(self, tasks: Part, agents: Part) -> None:
        for name, node in tasks.items():
            if isinstance(node.value, dict) and "agent" not in node.value:
                what = f'no agent: write "agent": "NAME" here; the agents are {", ".join(agents) or "none"}'
                self._problems.append(Problem(f"tasks.{name}.agent", what, node.line, node.file))
