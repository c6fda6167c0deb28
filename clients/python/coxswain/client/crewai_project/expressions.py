"""The values of expressions, as far as they stand in the code."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from coxswain.client.crewai_project.python_source import MUTATORS, Function, Module, Sources, assignments, statements
from coxswain.client.documents import DocumentError, Node, Problem

_MAX_DEPTH = 48
# A variable that is used twice in another one, and so on, describes a value larger than memory in a few lines.
_MAX_STEPS = 200_000


_Part = Callable[[ast.expr], Node]


class _Unknown:
    """The value of an expression that the code does not tell."""


_UNKNOWN = _Unknown()
_Value = dict[str, Node] | list[Node] | str | int | float | bool | None


class Unreadable(Exception):
    """An expression whose value does not stand in the code. The message says why."""


@dataclass(frozen=True)
class Scope:
    """What the names in an expression mean."""

    module: Module
    local: Mapping[str, ast.expr | None] = field(default_factory=dict)
    owner: "ClassNames | None" = None
    """The class whose ``self`` is meant."""


@dataclass(eq=False)
class ClassNames:
    """What ``self.x`` and ``self.x()`` mean in a class."""

    module: Module
    methods: dict[str, Function]
    attributes: dict[str, "Bound | None"]
    opaque: frozenset[str]
    """Methods that stand for themselves, such as agents and tasks."""


@dataclass(frozen=True)
class Bound:
    """An expression with the scope of its names."""

    expression: ast.expr
    scope: Scope

    @property
    def line(self) -> int:
        """Where it stands, from 1."""
        return self.expression.lineno


def class_names(module: Module, node: ast.ClassDef, opaque: frozenset[str]) -> ClassNames:
    """The methods and attributes of a class, those that ``__init__`` sets included."""
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    names = ClassNames(module, methods, {}, opaque)
    for name, value in assignments(node.body).items():
        names.attributes[name] = None if value is None else Bound(value, Scope(module, owner=names))
    for method in methods.values():
        local = method_scope(names, method)
        for statement in statements(method.body):
            targets: list[ast.expr] = []
            value = None
            if isinstance(statement, ast.Assign):
                targets, value = statement.targets, statement.value
            elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
                targets, value = [statement.target], statement.value
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                function = statement.value.func
                if isinstance(function, ast.Attribute) and function.attr in MUTATORS:
                    # The list is another one from now on.
                    targets, value = [function.value], statement.value
            for target in targets:
                if isinstance(target, ast.Attribute) and is_self(target.value) and value is not None:
                    fixed = (
                        method.name == "__init__"
                        and statement in method.body
                        and isinstance(statement, ast.Assign | ast.AnnAssign)
                    )
                    again = target.attr in names.attributes
                    names.attributes[target.attr] = Bound(value, local) if fixed and not again else None
    return names


def method_scope(names: ClassNames, method: Function) -> Scope:
    """The scope inside of a method."""
    return Scope(names.module, _locals(method), names)


def _locals(function: Function) -> dict[str, ast.expr | None]:
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {**{one.arg: None for one in parameters if one and one.arg != "self"}, **assignments(function.body)}


def is_self(expression: ast.expr) -> bool:
    """Whether an expression is ``self``."""
    return isinstance(expression, ast.Name) and expression.id == "self"


def returned(function: Function) -> list[ast.Return]:
    """The statements that end a function with a value, in order."""
    return [one for one in statements(function.body) if isinstance(one, ast.Return) and one.value is not None]


def dotted(expression: ast.expr) -> str:
    """``a.b.c`` as text; empty for anything else."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return ""
    return ".".join([expression.id, *reversed(parts)])


def called(expression: ast.expr, module: Module) -> str:
    """The own name of what a call calls, or of what a name means: ``LLM`` for ``crewai.LLM(...)``; empty: no name."""
    target = expression.func if isinstance(expression, ast.Call) else expression
    if isinstance(target, ast.Name):
        return module.original(target.id)
    return target.attr if isinstance(target, ast.Attribute) else ""


class Expressions:
    """Follows names to what they stand for and reads literal values, within bounds."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._steps = 0

    def follow(self, bound: Bound) -> Bound:
        """What variables, attributes and functions without arguments stand for.

        Stops at what it cannot look through. Raises Unreadable for a value that depends on the course of the program.
        """
        for _ in range(_MAX_DEPTH):
            self._step(bound)
            further = self._behind(bound)
            if further is None:
                return bound
            bound = further
        raise Unreadable("names refer to each other in a circle")

    def _behind(self, bound: Bound) -> Bound | None:
        expression, scope = bound.expression, bound.scope
        match expression:
            case ast.Name(id=name):
                if name in scope.local:
                    return self._fixed(name, scope.local[name], scope)
                return self._in_module(name, scope.module)
            case ast.Attribute(value=value, attr=name) if is_self(value) and scope.owner is not None:
                if name not in scope.owner.attributes:
                    return None
                found = scope.owner.attributes[name]
                if found is None:
                    raise Unreadable(f"self.{name} is set at run time")
                return found
            case ast.Attribute() if name := dotted(expression):
                return self._in_module(name, scope.module) if name.partition(".")[0] not in scope.local else None
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=[], keywords=[]) if (
                is_self(value) and scope.owner is not None and name not in scope.owner.opaque
            ):
                method = scope.owner.methods.get(name)
                return self._result(method, method_scope(scope.owner, method)) if method else None
            case ast.Call(func=ast.Name(id=name), args=[], keywords=[]) if name not in scope.local:
                found_at = self._sources.find(scope.module, name)
                if found_at and (function := found_at[0].functions.get(found_at[1])) and not function.decorator_list:
                    return self._result(function, Scope(found_at[0], _locals(function)))
        return None

    def _in_module(self, name: str, module: Module) -> Bound | None:
        found = self._sources.find(module, name)
        if found is None:
            return None
        home, name = found
        return self._fixed(name, home.names[name], Scope(home)) if name in home.names else None

    def _fixed(self, name: str, value: ast.expr | None, scope: Scope) -> Bound:
        if value is None:
            raise Unreadable(f"{name} gets its value at run time")
        return Bound(value, scope)

    def _result(self, function: Function, scope: Scope) -> Bound | None:
        results = returned(function)
        return Bound(results[0].value, scope) if len(results) == 1 and results[0].value is not None else None

    def value(self, bound: Bound, depth: int = 0) -> Node:
        """Text, number, true or false, nothing, or lists and mappings of them. Raises Unreadable for anything else."""
        if depth > _MAX_DEPTH:
            raise Unreadable("nested too deeply")
        line = bound.line
        bound = self.follow(bound)
        expression = bound.expression

        def part(item: ast.expr) -> Node:
            return self.value(replace(bound, expression=item), depth + 1)

        value: _Value | _Unknown = _UNKNOWN
        match expression:
            case ast.Constant(value=constant):
                value = _constant(constant)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                value = [element for item in items for element in self._elements(part, item)]
            case ast.Dict(keys=keys, values=values):
                value = {self._key(part, key): part(item) for key, item in zip(keys, values, strict=True)}
            case ast.JoinedStr(values=values):
                value = self._joined(part, values)
            case ast.BinOp() | ast.UnaryOp():
                value = self._operation(part, expression)
            case ast.Call():
                value = self._text_call(part, expression, bound.scope.module)
        if isinstance(value, _Unknown):
            elsewhere = f" in line {expression.lineno}" if line != expression.lineno else ""
            raise Unreadable(f"put together at run time{elsewhere}")
        if isinstance(value, str):
            self._step(bound, len(value))
        text = str(value) if isinstance(value, str | bool | int | float) else None
        return Node(value, expression.lineno, text, bound.scope.module.file)

    def _operation(self, part: _Part, expression: ast.BinOp | ast.UnaryOp) -> _Value | _Unknown:
        if isinstance(expression, ast.UnaryOp):
            value = part(expression.operand).value
            if isinstance(value, int | float) and isinstance(expression.op, ast.USub):
                return -value
            return not value if isinstance(value, bool) and isinstance(expression.op, ast.Not) else _UNKNOWN
        first, second = part(expression.left).value, part(expression.right).value
        if isinstance(first, int | float) and isinstance(second, int | float):
            return _arithmetic(first, expression.op, second)
        if isinstance(expression.op, ast.Add):
            if isinstance(first, str) and isinstance(second, str):
                return first + second
            if isinstance(first, list) and isinstance(second, list):
                return [*first, *second]
        return _UNKNOWN

    def _joined(self, part: _Part, values: list[ast.expr]) -> str | _Unknown:
        texts = []
        for item in values:
            if isinstance(item, ast.FormattedValue) and (item.format_spec or item.conversion != -1):
                return _UNKNOWN
            text = part(item.value if isinstance(item, ast.FormattedValue) else item).value
            if not isinstance(text, str):
                return _UNKNOWN
            texts.append(text)
        return "".join(texts)

    def _text_call(self, part: _Part, call: ast.Call, module: Module) -> str | _Unknown:
        match call:
            case ast.Call(func=ast.Attribute(value=inner, attr="strip"), args=[], keywords=[]):
                text = part(inner).value
                return text.strip() if isinstance(text, str) else _UNKNOWN
            case ast.Call(args=[argument], keywords=[]) if called(call, module) in _TEXT_FUNCTIONS:
                text = part(argument).value
                return _TEXT_FUNCTIONS[called(call, module)](text) if isinstance(text, str) else _UNKNOWN
        return _UNKNOWN

    def items(self, bound: Bound) -> list[Bound]:
        """The elements of a list that stands in the code, lists in it unpacked as far as these do.

        Raises Unreadable for anything else.
        """
        bound = self.follow(bound)
        match bound.expression:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                found = []
                self._steps += len(elements)
                for element in elements:
                    inner = replace(bound, expression=element.value if isinstance(element, ast.Starred) else element)
                    found += self._unpacked(inner) if isinstance(element, ast.Starred) else [inner]
                return found
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return [one for side in (left, right) for one in self._unpacked(replace(bound, expression=side))]
        raise Unreadable("this is no list that stands in the code")

    def _unpacked(self, bound: Bound) -> list[Bound]:
        try:
            return self.items(bound)
        except Unreadable:
            return [bound]

    def _elements(self, part: _Part, item: ast.expr) -> list[Node]:
        if not isinstance(item, ast.Starred):
            return [part(item)]
        inner = part(item.value)
        if not isinstance(inner.value, list):
            raise Unreadable("put together at run time")
        return inner.value

    def _key(self, part: _Part, key: ast.expr | None) -> str:
        name = part(key).value if key is not None else None
        if not isinstance(name, str):
            raise Unreadable("a key is no text")
        return name

    def _step(self, bound: Bound, cost: int = 1) -> None:
        self._steps += 1 + cost // 1000
        if self._steps > _MAX_STEPS:
            description = "the values in this file refer to each other too often to be read"
            raise DocumentError(bound.scope.module.path, [Problem("", description, bound.line)])


def _constant(value: object) -> _Value | _Unknown:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unreadable("a text with half of a surrogate pair") from None
        return value
    if isinstance(value, int) and abs(value) >= 2**63:
        raise Unreadable("the number is too large")
    return value if value is None or isinstance(value, bool | int | float) else _UNKNOWN


def _arithmetic(first: float, op: ast.operator, second: float) -> float | _Unknown:
    try:
        match op:
            case ast.Add():
                return first + second
            case ast.Sub():
                return first - second
            case ast.Mult():
                return first * second
            case ast.Div():
                return first / second
    except (ArithmeticError, ValueError):
        raise Unreadable("no number comes out") from None
    return _UNKNOWN


_TEXT_FUNCTIONS: dict[str, Callable[[str], str]] = {"dedent": textwrap.dedent, "cleandoc": inspect.cleandoc}
