"""Finds ``@CrewBase`` classes, and the agents, tasks and crew that their methods build."""

import ast
import contextlib
import copy
from dataclasses import dataclass, field

from coxswain.client.crewai_project.expressions import (
    Bound,
    ClassNames,
    Expressions,
    Unreadable,
    called,
    class_names,
    method_scope,
    returned,
)
from coxswain.client.crewai_project.notes import Notes
from coxswain.client.crewai_project.python_source import Function, Module, statements

_REMEDIES = {
    "before_kickoff": "code before the start is not imported: prepare the inputs before StartExecution",
    "after_kickoff": "code after the end is not imported: work on the result when the execution has ended",
    "callback": "Python code cannot be imported: watch the execution's events instead",
    "cache_handler": "results of tools are not cached here: nothing to do",
    "before_llm_call": "hooks are not imported: watch the execution's events instead",
    "after_llm_call": "hooks are not imported: watch the execution's events instead",
    "before_tool_call": "hooks are not imported: watch the execution's events instead",
    "after_tool_call": "hooks are not imported: watch the execution's events instead",
    "on": "hooks are not imported: watch the execution's events instead",
}
_WITHOUT_EFFECT = {"agent", "task", "crew", "llm", "tool", "output_json", "output_pydantic"}
_OF_PYTHON = {"staticmethod", "classmethod", "property", "cached_property", "override"}


@dataclass(frozen=True)
class Keyword:
    """A keyword argument, where it stands."""

    value: Bound
    line: int

    @property
    def file(self) -> str:
        """The file, as notes show it."""
        return self.value.scope.module.file


@dataclass(frozen=True)
class Built:
    """What a method builds: the keyword arguments of ``Agent(...)``, ``Task(...)`` or ``Crew(...)``."""

    name: str
    line: int
    kind: str
    """What is called. Example: ``ConditionalTask``; empty when the code does not tell."""
    keywords: dict[str, Keyword]


@dataclass(eq=False)
class CrewClass:
    """A ``@CrewBase`` class."""

    module: Module
    node: ast.ClassDef
    names: ClassNames
    agents: dict[str, Function] = field(default_factory=dict)
    tasks: dict[str, Function] = field(default_factory=dict)
    crew: Function | None = None
    factories: dict[str, Function] = field(default_factory=dict)
    """Methods marked ``@llm`` and ``@tool``, which the YAML files name."""


def crew_classes(module: Module) -> list[ast.ClassDef]:
    """The classes of a file that are marked ``@CrewBase``, in order."""
    return [
        one
        for one in statements(module.tree.body)
        if isinstance(one, ast.ClassDef) and "CrewBase" in {called(mark, module) for mark in one.decorator_list}
    ]


def flows(module: Module) -> list[ast.ClassDef]:
    """The flows of a file, in order."""
    found = []
    for one in statements(module.tree.body):
        if isinstance(one, ast.ClassDef):
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in one.bases]
            if "Flow" in {called(base, module) for base in bases}:
                found.append(one)
    return found


def read_class(module: Module, node: ast.ClassDef, notes: Notes, wanted: str = "") -> CrewClass:
    """The parts of a class, inherited ones included; what else it has is noted.

    ``wanted`` is the method of the crew to take, of several. Raises LookupError when there is none of that name.
    """
    node = _with_inherited(module, node)
    marks = {
        item.name: [called(mark, module) for mark in item.decorator_list]
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    opaque = {name for name, given in marks.items() if {"agent", "task", "crew"} & set(given)}
    made = CrewClass(module, node, class_names(module, node, frozenset(opaque)))
    crews: list[Function] = []
    for name, given in marks.items():
        method = made.names.methods[name]
        if "agent" in given:
            made.agents[name] = method
        elif "task" in given:
            made.tasks[name] = method
        elif "crew" in given:
            crews.append(method)
        elif {"llm", "tool"} & set(given):
            made.factories[name] = method
        for mark in given:
            if mark not in _WITHOUT_EFFECT | _OF_PYTHON:
                remedy = _REMEDIES.get(mark, "Python code cannot be imported and was left out")
                notes.add(f"{node.name}.{name}", f"@{mark}: {remedy}", method.lineno, module.file)
    named = {one.name: one for one in crews}
    if wanted and wanted not in named:
        raise LookupError(f"{node.name} has no @crew method {wanted!r}, but {', '.join(named) or 'none'}")
    made.crew = named.get(wanted or "crew", crews[0] if crews else None)
    for other in crews:
        if other is not made.crew and made.crew is not None:
            what = (
                f"another crew of the class, of which {made.crew.name} is taken: choose it with "
                f"--crew-class {node.name}.{other.name}"
            )
            notes.add(f"{node.name}.{other.name}", what, other.lineno, module.file)
    for base in node.bases:
        if called(base, module) not in {"object", "ABC"} and _class_of_file(module, base) is None:
            origin = called(base, module) or "another class"
            what = f"methods that come from {origin} are not read: write them in this class"
            notes.add(node.name, what, base.lineno, module.file)
    if "mcp_server_params" in made.names.attributes:
        bound = made.names.attributes["mcp_server_params"]
        line = bound.line if bound else node.lineno
        notes.add(
            f"{node.name}.mcp_server_params", "MCP servers are set up with the tools of the server", line, module.file
        )
    return made


def _class_of_file(module: Module, base: ast.expr) -> ast.ClassDef | None:
    """The class of the same file that is inherited from."""
    if not isinstance(base, ast.Name):
        return None
    return next(
        (one for one in statements(module.tree.body) if isinstance(one, ast.ClassDef) and one.name == base.id), None
    )


def _with_inherited(module: Module, node: ast.ClassDef, below: frozenset[str] = frozenset()) -> ast.ClassDef:
    """A class with what it inherits from classes of its file, before what is its own."""
    own = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    inherited: list[ast.stmt] = []
    for base in node.bases:
        found = _class_of_file(module, base)
        if found is None or found.name in below | {node.name}:
            continue
        body = _with_inherited(module, found, below | {node.name}).body
        inherited += [item for item in body if getattr(item, "name", None) not in own]
    if not inherited:
        return node
    made = copy.copy(node)
    made.body = [*inherited, *node.body]
    return made


class Reader:
    """Reads what methods build."""

    def __init__(self, expressions: Expressions, notes: Notes) -> None:
        self._expressions = expressions
        self._notes = notes

    def built(self, owner: CrewClass, path: str, method: Function) -> Built:
        """What a method returns; whatever else happens to it is noted under its path."""
        file = owner.module.file
        results = returned(method)
        if not results or results[-1].value is None:
            self._notes.add(path, f"{method.name} returns nothing", method.lineno, file)
            return Built(method.name, method.lineno, "", {})
        for other in results[:-1]:
            what = f"which of several is returned is decided at run time; the one of line {results[-1].lineno} is taken"
            self._notes.add(path, what, other.lineno, file)
        scope = method_scope(owner.names, method)
        try:
            bound = self._expressions.follow(Bound(results[-1].value, scope))
        except Unreadable as error:
            self._notes.add(path, f"{error}: write it after `return`", results[-1].lineno, file)
            return Built(method.name, method.lineno, "", {})
        for statement in statements(method.body):
            self._note_change(path, results[-1].value, statement, file)
        return Built(method.name, method.lineno, *self.call(path, bound))

    def call(self, path: str, bound: Bound) -> tuple[str, dict[str, Keyword]]:
        """The name and the keyword arguments of a call."""
        file = bound.scope.module.file
        if not isinstance(bound.expression, ast.Call):
            self._notes.add(path, "what is returned is built elsewhere: write it out here", bound.line, file)
            return "", {}
        for argument in bound.expression.args:
            self._notes.add(
                path, "an argument without a name was left out: write it as name=value", argument.lineno, file
            )
        keywords: dict[str, Keyword] = {}
        for keyword in bound.expression.keywords:
            value = Bound(keyword.value, bound.scope)
            if keyword.arg is not None:
                keywords[keyword.arg] = Keyword(value, keyword.lineno)
            else:
                keywords.update(self._unpacked(path, value))
        return called(bound.expression, bound.scope.module), keywords

    def _unpacked(self, path: str, value: Bound) -> dict[str, Keyword]:
        line, file = value.line, value.scope.module.file
        with contextlib.suppress(Unreadable):
            value = self._expressions.follow(value)
        found: dict[str, Keyword] = {}
        match value.expression:
            case ast.Dict(keys=keys, values=values) if all(
                isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys
            ):
                for key, item in zip(keys, values, strict=True):
                    assert isinstance(key, ast.Constant)
                    found[str(key.value)] = Keyword(Bound(item, value.scope), item.lineno)
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=inner) if all(one.arg for one in inner):
                for one in inner:
                    found[str(one.arg)] = Keyword(Bound(one.value, value.scope), one.lineno)
            case _:
                self._notes.add(f"{path}.**", "arguments that are put together at run time: write them out", line, file)
        return found

    def _note_change(self, path: str, result: ast.expr, statement: ast.stmt, file: str) -> None:
        """A note for ``agent.max_iter = 3`` after ``agent = Agent(...)``."""
        if not isinstance(result, ast.Name) or not isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):
            return
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id == result.id
            ):
                what = "set after it was built, which is not read: write it as an argument"
                self._notes.add(f"{path}.{target.attr}", what, statement.lineno, file)
