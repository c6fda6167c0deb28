"""Keyword arguments of ``Agent``, ``Task`` and ``Crew`` as the values that the YAML files would hold."""

import ast
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from coxswain.client.crewai_project import fields, tool_classes
from coxswain.client.crewai_project.class_reader import CrewClass, Keyword
from coxswain.client.crewai_project.expressions import (
    Bound,
    Expressions,
    Unreadable,
    called,
    dotted,
    is_self,
    method_scope,
    returned,
)
from coxswain.client.crewai_project.knowledge_sources import KnowledgeSources
from coxswain.client.crewai_project.memory_fields import KNOWN_SETTINGS, memory_fields
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.crewai_project.python_source import Module, Sources
from coxswain.client.crewai_project.schemas import Schemas
from coxswain.client.documents import Node

_NAME_IT = 'name the model here as text, such as llm="openai/gpt-4o"'


class _Translate(Protocol):
    def __call__(self, path: str, key: str, keyword: Keyword, /) -> Node | None: ...


class Translation:
    """Translates the arguments of one crew class. What it cannot translate it notes."""

    def __init__(
        self, owner: CrewClass, sources: Sources, expressions: Expressions, notes: Notes, tools: Mapping[str, str]
    ) -> None:
        self._owner = owner
        self._sources = sources
        self._expressions = expressions
        self._schemas = Schemas(sources, expressions)
        self._notes = notes
        self._tools = tools
        self.built_in_place: dict[str, Bound] = {}
        """Calls of ``Agent`` that stand in a task, by the names that their agents get."""
        self.knowledge = KnowledgeSources(owner, sources, expressions, notes)
        """Reads arguments that hold knowledge sources."""
        self.named_tools: set[str] = set()
        """The classes of tools that were given a counterpart and that the project has."""

    def agent(self, path: str, keywords: dict[str, Keyword]) -> dict[str, Node]:
        """The arguments of an agent, by CrewAI's names."""
        return self._each(path, keywords, self._agent_value)

    def task(self, path: str, keywords: dict[str, Keyword]) -> dict[str, Node]:
        """The arguments of a task, by CrewAI's names; agents and other tasks by the names of their methods."""
        return self._each(path, keywords, self._task_value)

    def _each(self, path: str, keywords: dict[str, Keyword], translate: _Translate) -> dict[str, Node]:
        given: dict[str, Node] = {}
        for key, keyword in keywords.items():
            if is_nothing(keyword):
                continue
            try:
                found = translate(path, key, keyword)
            except Unreadable as error:
                self.note(f"{path}.{key}", f"{error}: {self._mend(key)}", keyword)
                continue
            if found is not None:
                given["knowledge" if key == "knowledge_sources" else key] = found
        return given

    def note(self, subject: str, description: str, keyword: Keyword) -> None:
        """Note an argument where it stands."""
        self._notes.add(subject, description, keyword.line, keyword.file)

    def _mend(self, key: str) -> str:
        if key in fields.OUTPUTS:
            return "write the class in the project, or its JSON schema under output_schema in a crew file"
        known = {*fields.AGENT_FIELDS, *fields.TASK_FIELDS}
        if key == "agent":
            return "write a method marked @agent and call it here, such as agent=self.writer()"
        return "write the value out" if key in known else fields.remedy(key)

    def _agent_value(self, path: str, key: str, keyword: Keyword) -> Node | None:
        if key == "llm":
            return self.model(f"{path}.llm", keyword)
        if key == "function_calling_llm":
            return self.model_name(f"{path}.{key}", keyword)
        if key == "tools":
            return self.tools(keyword)
        if key == "knowledge_sources":
            return self.knowledge.read(path, keyword)
        return self._plain(path, key, keyword, fields.AGENT_FIELDS)

    def _task_value(self, path: str, key: str, keyword: Keyword) -> Node | None:
        if key == "agent":
            return self._text(self.agent_of(f"{path.removeprefix('tasks.')}_agent", keyword), keyword)
        if key == "context":
            return self._context(path, keyword)
        if key == "tools":
            return self.tools(keyword)
        if key in {"guardrail", "guardrails"}:
            return self._guardrails(f"{path}.{key}", key, keyword)
        if key in fields.OUTPUTS:
            return self.schema(f"{path}.{key}", keyword.value, keyword.line)
        return self._plain(path, key, keyword, fields.TASK_FIELDS)

    def agent_of(self, name: str, keyword: Keyword) -> str:
        """The agent that an argument names. One that is built there gets `name`, or one that begins with it.

        Raises Unreadable.
        """
        method = self.method_of(keyword.value, self._owner.agents)
        if method is not None:
            return method
        bound = self._expressions.follow(keyword.value)
        if not isinstance(bound.expression, ast.Call) or called(bound.expression, bound.scope.module) != "Agent":
            raise Unreadable("this is no method marked @agent")
        while name in self._owner.agents or name in self.built_in_place:
            name += "_"
        self.built_in_place[name] = bound
        return name

    def _plain(self, path: str, key: str, keyword: Keyword, known: Mapping[str, str]) -> Node | None:
        if key in known and key != "knowledge":
            node = self._expressions.value(keyword.value)
            return replace(node, line=keyword.line, file=keyword.file) if not isinstance(node.value, str) else node
        self.without_counterpart(f"{path}.{key}", key, keyword)
        return None

    def without_counterpart(self, subject: str, key: str, keyword: Keyword) -> None:
        """Note an argument that has none, unless it says what happens here anyway."""
        value = keyword.value.expression
        if isinstance(value, ast.Constant) and fields.is_as_here(key, value.value):
            return
        if key == "verbose":
            self._notes.shared(key, fields.remedy(key), keyword.line, keyword.file)
        else:
            self.note(subject, fields.remedy(key), keyword)

    def _text(self, text: str, keyword: Keyword) -> Node:
        return Node(text, keyword.line, text, keyword.file)

    def method_of(self, bound: Bound, methods: Mapping[str, object]) -> str | None:
        """The method that ``self.x()`` calls, variables followed; None when it is none of these."""
        bound = self._expressions.follow(bound)
        match bound.expression:
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if is_self(value) and name in methods:
                return name
        return None

    def _context(self, path: str, keyword: Keyword) -> Node:
        names = []
        for item in self._expressions.items(keyword.value):
            name = self.method_of(item, self._owner.tasks)
            if name is None:
                self.note(f"{path}.context", "one of them is no method marked @task, and was left out", keyword)
            else:
                names.append(self._text(name, keyword))
        return Node(names, keyword.line, None, keyword.file)

    def model(self, subject: str, keyword: Keyword) -> Node | None:
        """A model's name, or a mapping of what ``LLM(...)`` says."""
        bound = self._expressions.follow(keyword.value)
        if not isinstance(bound.expression, ast.Call) or called(bound.expression, bound.scope.module) != "LLM":
            return self._model_text(subject, bound, keyword)
        given: dict[str, Node] = {}
        call = bound.expression
        arguments = [
            *(("model", one) for one in call.args[:1]),
            *((one.arg or "**", one.value) for one in call.keywords),
        ]
        for key, value in arguments:
            if key not in fields.LLM_FIELDS:
                self.note(f"{subject}.{key}", "set it on the model in the models service", keyword)
                continue
            try:
                node = self._expressions.value(Bound(value, bound.scope))
            except Unreadable as error:
                self.note(f"{subject}.{key}", f"{error}: write the value out", keyword)
                continue
            if node.value is not None:
                given[key] = node
        return Node(given, keyword.line, None, keyword.file) if given else None

    def _model_text(self, subject: str, bound: Bound, keyword: Keyword) -> Node | None:
        try:
            node = self._expressions.value(bound)
        except Unreadable as error:
            kind = called(bound.expression, bound.scope.module) if isinstance(bound.expression, ast.Call) else ""
            foreign = kind and kind not in {"getenv", "get"}
            what = f"{kind}(...) is an object that is not imported" if foreign else str(error)
            self.note(subject, f"{what}: {_NAME_IT}", keyword)
            return None
        if isinstance(node.value, str):
            return node
        self.note(subject, f"this is no name of a model: {_NAME_IT}", keyword)
        return None

    def model_name(self, subject: str, keyword: Keyword) -> Node | None:
        """A model's name; what ``LLM(...)`` says besides is noted."""
        node = self.model(subject, keyword)
        if node is None or not isinstance(node.value, dict):
            return node
        for key in node.value:
            if key != "model":
                self.note(f"{subject}.{key}", "set it on the model in the models service", keyword)
        return node.value.get("model")

    def memory(self, keyword: Keyword) -> Node | None:
        """What ``Memory(...)`` says of a crew's memory; None when it is something else."""
        bound = self._expressions.follow(keyword.value)
        call = bound.expression
        if not isinstance(call, ast.Call) or called(call, bound.scope.module) != "Memory":
            return None
        given: dict[str, Node] = {}
        for argument in call.keywords:
            key, own = argument.arg or "**", Keyword(Bound(argument.value, bound.scope), argument.value.lineno)
            if is_nothing(own):
                continue
            try:
                found = self.model_name("crew.memory.llm", own) if key == "llm" else self._memory_value(own)
            except Unreadable as error:
                # Its value does not matter where it has no counterpart.
                found = Node(None, own.line, None, own.file)
                if key in KNOWN_SETTINGS:
                    self.note(f"crew.memory.{key}", f"{error}: write the value out", own)
                    continue
            if found is not None:
                given[key] = found
        return Node({**memory_fields("crew.memory", given, self._notes)}, keyword.line, None, keyword.file)

    def _memory_value(self, keyword: Keyword) -> Node:
        return replace(self._expressions.value(keyword.value), line=keyword.line, file=keyword.file)

    def factory(self, name: str) -> Bound | None:
        """What a method marked ``@llm`` or ``@tool`` returns, by its name in a YAML file."""
        method = self._owner.factories.get(name)
        results = returned(method) if method else []
        if method is None or len(results) != 1 or results[0].value is None:
            return None
        return Bound(results[0].value, method_scope(self._owner.names, method))

    def tools(self, keyword: Keyword) -> Node:
        """The tools that have a counterpart; the others are noted, each class once with all its lines."""
        found: list[Node] = []
        try:
            items = self._expressions.items(keyword.value)
        except Unreadable:
            self.tool(keyword.value, keyword.line, found)
            return Node(list(found), keyword.line, None, keyword.file)
        here = {id(one) for one in ast.walk(keyword.value.expression)}
        for item in items:
            self.tool(item, item.line if id(item.expression) in here else keyword.line, found)
        return Node(list(found), keyword.line, None, keyword.file)

    def tool(self, item: Bound, line: int, found: list[Node]) -> None:
        """Add the counterpart of one tool to those found, or note it."""
        file = self._owner.module.file
        name, behind = "", item
        try:
            behind = self._expressions.follow(item)
            name = _made_by(behind.expression, behind.scope.module)
        except Unreadable:
            pass
        name = name or dotted(item.expression) or _made_by(item.expression, item.scope.module) or "tools"
        if name in self._tools:
            self.named_tools.add(name)
            if all(one.value != self._tools[name] for one in found):
                found.append(Node(self._tools[name], line, self._tools[name], file))
            return
        if name == "tools":
            self._notes.shared(name, "these are put together at run time: list them here, tool by tool", line, file)
            return
        made = behind.expression
        has_settings = isinstance(made, ast.Call) and bool(made.args or made.keywords)
        is_own = self._sources.find(behind.scope.module, name) is not None
        known = None if is_own else tool_classes.counterpart(name, has_settings=has_settings)
        if known is None:
            self._notes.shared(name, tool_classes.instead(name, is_own=is_own), line, file)
            return
        if all(one.value != known.name for one in found):
            found.append(Node(known.name, line, known.name, file))
        self._notes.shared(name, f"became {known.name}: {known.differs}", line, file)

    def _guardrails(self, subject: str, key: str, keyword: Keyword) -> Node | None:
        items = [keyword.value]
        if key == "guardrails":
            with contextlib.suppress(Unreadable):
                items = self._expressions.items(keyword.value)
        words = []
        for item in items:
            text = self._words(subject, item, keyword)
            if text is not None:
                words.append(text)
        return Node([*words], keyword.line, None, keyword.file) if words else None

    def _words(self, subject: str, item: Bound, keyword: Keyword) -> Node | None:
        try:
            bound = self._expressions.follow(item)
            if (
                isinstance(bound.expression, ast.Call)
                and called(bound.expression, bound.scope.module) == "LLMGuardrail"
            ):
                said = {one.arg: one.value for one in bound.expression.keywords}
                if bound.expression.args:
                    said["description"] = bound.expression.args[0]
                for other in said.keys() - {"description"}:
                    self.note(f"{subject}.{other}", "the model of the agent judges: set that instead", keyword)
                if "description" not in said:
                    raise Unreadable("no description")
                bound = Bound(said["description"], bound.scope)
            node = self._expressions.value(bound)
            if isinstance(node.value, str):
                return node
        except Unreadable:
            pass
        self.note(subject, fields.FUNCTION, keyword)
        return None

    def schema(self, subject: str, bound: Bound, line: int) -> Node:
        """The JSON schema of an output class. Raises Unreadable."""
        output = self._schemas.of(bound)
        for what, where, file in output.unread:
            self._notes.add(subject, what, where, file)
        return _as_node(output.schema, line, bound.scope.module.file)


def is_nothing(keyword: Keyword) -> bool:
    """Whether an argument is ``None``, which means the same as leaving it out."""
    return isinstance(keyword.value.expression, ast.Constant) and keyword.value.expression.value is None


def _as_node(value: object, line: int, file: str) -> Node:
    if isinstance(value, dict):
        return Node({key: _as_node(item, line, file) for key, item in value.items()}, line, None, file)
    if isinstance(value, list):
        return Node([_as_node(item, line, file) for item in value], line, None, file)
    assert value is None or isinstance(value, str | int | float | bool)
    return Node(value, line, None if value is None else str(value), file)


def _made_by(expression: ast.expr, module: Module) -> str:
    """The class or function that gives a tool, also as a part of what it makes: ``X`` for ``X(...).tools``."""
    base = expression
    while isinstance(base, ast.Starred | ast.Attribute | ast.Subscript):
        base = base.value
    return called(base if isinstance(base, ast.Call) else expression, module)
