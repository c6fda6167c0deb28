"""Puts the document of a crew together from the YAML files and the class of a project."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from coxswain.client.crew_file import CrewDocument, crew_from
from coxswain.client.crewai_project import fields
from coxswain.client.crewai_project.class_reader import Built, CrewClass, Keyword, Reader, read_class
from coxswain.client.crewai_project.crew_arguments import CrewArguments
from coxswain.client.crewai_project.explanations import explained, without_agent
from coxswain.client.crewai_project.expressions import Bound, Expressions, Scope, Unreadable, is_self
from coxswain.client.crewai_project.layout import Home
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.crewai_project.python_source import Function, Sources
from coxswain.client.crewai_project.translation import Translation, is_nothing
from coxswain.client.documents import DocumentError, Node, Problem, read_document

Part = dict[str, Node]
_Convert = Callable[[str, dict[str, Node], Notes], dict[str, Node]]
_Translate = Callable[[str, dict[str, Keyword]], dict[str, Node]]


class Builder:
    """Builds the document of one crew."""

    def __init__(self, home: Home, given: Path, sources: Sources, notes: Notes, tools: Mapping[str, str]) -> None:
        self._home = home
        self._given = given
        self._sources = sources
        self._notes = notes
        self._tools = tools
        self._problems: list[Problem] = []
        self._expressions = Expressions(sources)
        self._owner: CrewClass | None = None
        if home.code is not None:
            node = next(
                one for one in ast.walk(home.code.tree) if isinstance(one, ast.ClassDef) and one.name == home.class_name
            )
            try:
                self._owner = read_class(home.code, node, notes, home.crew_method)
            except LookupError as error:
                raise DocumentError(given, [Problem("", str(error), node.lineno, home.code.file)]) from None
        self._reader = Reader(self._expressions, notes)
        # The method that stands for each entry of the YAML files: several where two methods use one entry.
        self._users: dict[str, dict[str, list[str]]] = {"agents": {}, "tasks": {}}

    def document(self, name: str, process: str) -> CrewDocument:
        """The crew. Raises DocumentError with everything that keeps the project from being one."""
        agents_file, tasks_file = self._yaml("agents"), self._yaml("tasks")
        if self._owner is None:
            agents = self._entries(agents_file, "agents", fields.agent_fields)
            tasks = self._entries(tasks_file, "tasks", fields.task_fields)
            crew: Part = {}
            code = self._home.directory / "crew.py"
            if code.is_file():
                what = "has no class marked @CrewBase, and only the YAML files were read"
                self._notes.add(code.name, what, 1, self._sources.shown(code))
        else:
            agents, tasks, crew = self._of_class(self._owner, agents_file, tasks_file)
        root: Part = {
            "name": _text(self._home.directory.resolve().name),
            "agents": Node({**agents}, _line(agents_file), None, _file(agents_file)),
            "tasks": Node({**tasks}, _line(tasks_file), None, _file(tasks_file)),
            "process": _text("sequential"),
            **crew,
        }
        if name:
            root["name"] = _text(name)
        if process:
            root["process"] = _text(process)
        if str(root["process"].value).lower() == "sequential":
            self._problems += without_agent(tasks, agents, self._notes, self._owner)
        if self._problems:
            raise DocumentError(self._given, self._problems)
        try:
            return crew_from(Node({**root}), self._given)
        except DocumentError as error:
            raise DocumentError(
                self._given, [explained(one, agents, tasks, self._notes) for one in error.problems]
            ) from None

    def _yaml(self, what: str) -> Node | None:
        """The entries of a file; None when the project has none."""
        path = self._home.config / f"{what}.yaml" if self._home.config else None
        if self._owner is not None:
            path = self._configured(self._owner, what, path)
        if path is None:
            return None
        root = read_document(path).in_file(self._sources.shown(path))
        if root.value is not None and not isinstance(root.value, dict):
            raise DocumentError(path, [Problem(what, f"expected a mapping by name, not {root.kind}", root.line)])
        return root

    def _configured(self, owner: CrewClass, what: str, usual: Path | None) -> Path | None:
        """The file that ``agents_config = "..."`` names, which is relative to the code."""
        bound = owner.names.attributes.get(f"{what}_config")
        if bound is None:
            return usual
        subject = f"{owner.node.name}.{what}_config"
        try:
            given = self._expressions.value(bound).value
        except Unreadable as error:
            self._notes.add(subject, f"{error}: write the path out", bound.line, owner.module.file)
            return usual
        if not isinstance(given, str):
            return usual
        path = owner.module.path.parent / given
        if self._sources.holds(path):
            return path
        what_is_wrong = f"{given} is not a file of the project: give a path from the directory of the code"
        self._notes.add(subject, what_is_wrong, bound.line, owner.module.file)
        return usual

    def _entries(self, root: Node | None, what: str, convert: _Convert) -> Part:
        """The agents or the tasks of a file, each converted."""
        converted: Part = {}
        for name, node in _mapping(root).items():
            path = f"{what}.{name}"
            if isinstance(node.value, dict):
                converted[name] = replace(node, value={**convert(path, node.value, self._notes)})
            else:
                self._problems.append(_not_a_mapping(path, node))
        return converted

    def _of_class(self, owner: CrewClass, agents_file: Node | None, tasks_file: Node | None) -> tuple[Part, Part, Part]:
        translation = Translation(owner, self._sources, self._expressions, self._notes, self._tools)
        crew = self._reader.built(owner, "crew", owner.crew) if owner.crew else Built("", owner.node.lineno, "", {})
        if owner.crew is None:
            what = "the class has no method marked @crew: all its agents and tasks make a sequential crew"
            self._notes.add(owner.node.name, what, owner.node.lineno, owner.module.file)
        chosen_tasks = self._chosen(owner, translation, crew, "tasks", owner.tasks)
        chosen_agents = self._chosen(owner, translation, crew, "agents", owner.agents)
        tasks = {
            name: self._part(owner, f"tasks.{name}", method, tasks_file, translation.task)
            for name, method in chosen_tasks.items()
        }
        agents = {
            name: self._part(owner, f"agents.{name}", method, agents_file, translation.agent)
            for name, method in owner.agents.items()
        }
        made = CrewArguments(translation, self._expressions, self._notes).read(crew)
        for name, bound in translation.built_in_place.items():
            agents[name] = self._agent_in_place(name, bound, agents_file, translation)
        for path, node in tasks.items():
            tasks[path] = self._named(translation, f"tasks.{path}", node, owner)
        for path, node in agents.items():
            agents[path] = self._named(translation, f"agents.{path}", node, owner)
        needed = {
            str(node.value["agent"].value)
            for node in tasks.values()
            if isinstance(node.value, dict) and "agent" in node.value
        }
        needed |= {*chosen_agents, *([str(made["manager_agent"].value)] if "manager_agent" in made else [])}
        for name in [one for one in agents if one not in needed]:
            self._leave_out(owner, "agents", name, owner.agents[name])
            del agents[name]
        self._note_unused("agents", agents_file)
        self._note_unused("tasks", tasks_file)
        for name in sorted(self._tools.keys() - translation.named_tools):
            what = "no agent or task of the project has such a tool, so that nothing stands for it"
            self._notes.add(f"--tool {name}", what, owner.node.lineno, owner.module.file)
        converted_agents = {
            name: self._converted(f"agents.{name}", node, fields.agent_fields) for name, node in agents.items()
        }
        converted_tasks = {
            name: self._converted(f"tasks.{name}", node, fields.task_fields) for name, node in tasks.items()
        }
        return converted_agents, converted_tasks, made

    def _converted(self, path: str, node: Node, convert: _Convert) -> Node:
        assert isinstance(node.value, dict)
        return replace(node, value={**convert(path, node.value, self._notes)})

    def _chosen(
        self, owner: CrewClass, translation: Translation, crew: Built, what: str, methods: dict[str, Function]
    ) -> dict[str, Function]:
        """The methods that ``agents=`` or ``tasks=`` of ``Crew(...)`` lists, in its order; else all of them."""
        keyword = crew.keywords.get(what)
        if keyword is None or _is_own(keyword.value.expression, what):
            return methods
        chosen: dict[str, Function] = {}
        try:
            for item in self._expressions.items(keyword.value):
                name = translation.method_of(item, methods)
                if name is not None:
                    chosen[name] = methods[name]
                elif _is_own(item.expression, what):
                    chosen.update(methods)
                else:
                    mend = f"write a method marked @{what[:-1]} and call it here"
                    self._notes.add(f"crew.{what}", f"one of them was left out: {mend}", item.line, keyword.file)
        except Unreadable:
            what_is_wrong = (
                f"this list is put together at run time: all methods marked @{what[:-1]} are taken, in their order"
            )
            self._notes.add(f"crew.{what}", what_is_wrong, keyword.line, keyword.file)
            return methods
        if what == "tasks":
            for name in methods.keys() - chosen.keys():
                self._leave_out(owner, what, name, methods[name])
        return chosen

    def _leave_out(self, owner: CrewClass, what: str, name: str, method: Function) -> None:
        description = f"not in {what}=[...] of Crew(...), and so not part of the crew"
        self._notes.add(f"{what}.{name}", description, method.lineno, owner.module.file)
        # Its entry is not one that nobody knows about.
        built = self._reader.built(owner, f"{what}.{name}", method)
        key = self._config_key(what, built)
        if key is not None:
            self._users[what].setdefault(key, []).append(name)

    def _config_key(self, what: str, built: Built) -> str | None:
        """``k`` of ``config=self.agents_config["k"]``; None for anything else."""
        keyword = built.keywords.get("config")
        if keyword is None:
            return None
        try:
            bound = self._expressions.follow(keyword.value)
        except Unreadable:
            bound = keyword.value
        key: ast.expr | None = None
        match bound.expression:
            case ast.Subscript(value=value, slice=inner) if _is_own(value, f"{what}_config"):
                key = inner
            case ast.Call(func=ast.Attribute(value=value, attr="get"), args=[inner, *_]) if _is_own(
                value, f"{what}_config"
            ):
                key = inner
        if key is None:
            return None
        try:
            name = self._expressions.value(replace(bound, expression=key)).value
        except Unreadable:
            return None
        return name if isinstance(name, str) else None

    def _part(self, owner: CrewClass, path: str, method: Function, root: Node | None, translate: _Translate) -> Node:
        """An agent or a task: its entry, and over it what its method says."""
        what = path.partition(".")[0]
        built = self._reader.built(owner, path, method)
        entry = self._entry(path, built, root)
        said = translate(path, {key: one for key, one in built.keywords.items() if key != "config"})
        for key in built.keywords.keys() - said.keys() - {"config"}:
            note = self._notes.about(f"{path}.{key}")
            if note is not None and key in entry:
                self._notes.extend(note, f"what {what}.yaml says is kept")
        for one in fields.OUTPUTS:
            # The class of the code stands for every form of output in the file.
            if set(said) & set(fields.OUTPUTS):
                entry.pop(one, None)
        if {"guardrail", "guardrails"} & said.keys():
            entry = {key: node for key, node in entry.items() if key not in {"guardrail", "guardrails"}}
        line, file = method.lineno, owner.module.file
        where = _mapping(root).get(self._config_key(what, built) or "")
        if where is not None:
            line, file = where.line, where.file
        return Node({**entry, **said}, line, None, file)

    def _agent_in_place(self, name: str, bound: Bound, root: Node | None, translation: Translation) -> Node:
        """An agent that is built where a task names it."""
        path = f"agents.{name}"
        built = Built(name, bound.line, *self._reader.call(path, bound))
        entry = self._entry(path, built, root)
        said = translation.agent(path, {key: one for key, one in built.keywords.items() if key != "config"})
        return Node({**entry, **said}, bound.line, None, bound.scope.module.file)

    def _entry(self, path: str, built: Built, root: Node | None) -> Part:
        what = path.partition(".")[0]
        keyword = built.keywords.get("config")
        if keyword is None or is_nothing(keyword):
            return {}
        key = self._config_key(what, built)
        if key is None:
            try:
                node = self._expressions.value(keyword.value)
            except Unreadable as error:
                mend = f'write config=self.{what}_config["..."]'
                self._notes.add(f"{path}.config", f"{error}: {mend}", keyword.line, keyword.file)
                return {}
            return dict(node.value) if isinstance(node.value, dict) else {}
        entry = _mapping(root).get(key)
        self._users[what].setdefault(key, []).append(built.name)
        if entry is None:
            known = ", ".join(_mapping(root)) or "none"
            description = f"{what}.yaml has no entry {key!r}, but {known}"
            self._problems.append(Problem(f"{path}.config", description, keyword.line, keyword.file))
            return {}
        if not isinstance(entry.value, dict):
            self._problems.append(_not_a_mapping(f"{what}.{key}", entry))
            return {}
        return dict(entry.value)

    def _named(self, translation: Translation, path: str, node: Node, owner: CrewClass) -> Node:
        """The entry with what names of methods in the YAML file mean."""
        assert isinstance(node.value, dict)
        entry = dict(node.value)
        for key in ("llm", "function_calling_llm"):
            given = entry.get(key)
            if given is not None and isinstance(given.value, str) and (bound := translation.factory(given.value)):
                keyword = Keyword(bound, bound.line)
                read = translation.model if key == "llm" else translation.model_name
                found = read(f"{path}.{key}", keyword)
                entry.pop(key)
                if found is not None:
                    entry[key] = found
        tools = entry.get("tools")
        if tools is not None and isinstance(tools.value, list):
            entry["tools"] = replace(tools, value=self._tools_of(translation, tools.value))
        if path.startswith("tasks."):
            self._task_names(translation, path, entry, owner)
        return replace(node, value={**entry})

    def _tools_of(self, translation: Translation, given: list[Node]) -> list[Node]:
        found: list[Node] = []
        for one in given:
            bound = (
                translation.factory(one.value) if isinstance(one.value, str) and not one.file.endswith(".py") else None
            )
            if bound is None:
                found.append(one)
            else:
                translation.tool(bound, bound.line, found)
        return found

    def _task_names(self, translation: Translation, path: str, entry: Part, owner: CrewClass) -> None:
        agent = entry.get("agent")
        if agent is not None:
            entry["agent"] = self._method_named(agent, "agents", owner.agents)
        context = entry.get("context")
        if context is not None and isinstance(context.value, list):
            entry["context"] = replace(
                context, value=[self._method_named(one, "tasks", owner.tasks) for one in context.value]
            )
        for key in fields.OUTPUTS:
            given = entry.get(key)
            if given is None or not isinstance(given.value, str) or not given.value.isidentifier():
                continue
            name = ast.Name(given.value, lineno=given.line, col_offset=0)
            try:
                bound = Bound(name, Scope(owner.module))
                made = translation.schema(f"{path}.{key}", bound, given.line)
                entry[key] = replace(made, line=given.line, file=given.file)
            except Unreadable as error:
                self._notes.at(f"{path}.{key}", f"{error}: write its JSON schema here", given)
                entry.pop(key)

    def _method_named(self, node: Node, what: str, methods: Mapping[str, Function]) -> Node:
        """A name in a YAML file means a method; without one of that name, the only one that uses that entry."""
        users = self._users[what].get(str(node.value), [])
        if not isinstance(node.value, str) or node.value in methods or len(users) != 1:
            return node
        return replace(node, value=users[0], text=users[0])

    def _note_unused(self, what: str, root: Node | None) -> None:
        for key, node in _mapping(root).items():
            if key not in self._users[what]:
                self._notes.at(f"{what}.{key}", "no method of the class uses this entry: not part of the crew", node)


def _is_own(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Attribute) and expression.attr == name and is_self(expression.value)


def _mapping(root: Node | None) -> Part:
    return root.value if root is not None and isinstance(root.value, dict) else {}


def _line(root: Node | None) -> int:
    return root.line if root else 0


def _file(root: Node | None) -> str:
    return root.file if root else ""


def _text(value: str) -> Node:
    return Node(value, 0, value)


def _not_a_mapping(path: str, node: Node) -> Problem:
    return Problem(path, f"expected a mapping, not {node.kind}", node.line, node.file)
