"""Expressions in CEL, the Common Expression Language, bounded in what they may cost."""

import functools
import threading
from collections.abc import Iterator, Mapping
from typing import Any, cast

import celpy
from celpy.celparser import CELParseError
from celpy.celtypes import BoolType
from celpy.evaluation import Activation, CELEvalError, Context, Evaluator
from lark import Token, Tree

from services.orchestrator.expression_values import CONVERSIONS, OPERATORS, NoValue, value_of

MAX_CHARACTERS = 2048
# The grammar reads a backslash in more than one way: a text without an end takes twice as long with each.
_MAX_BACKSLASHES = 10
_MAX_STEPS = 50_000
_CHARACTERS_PER_STEP = 1000
_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map", "reduce"})
_TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})

_parsing = threading.Lock()


class BadExpression(ValueError):
    """The text is not an expression that can be evaluated."""


class NotEvaluated(Exception):
    """An expression has no value for what it was given."""


class Expression:
    """A condition in CEL. Parsing takes milliseconds, the first one of a process longer: too long for an event loop."""

    def __init__(self, text: str) -> None:
        """Parse an expression. Raises BadExpression."""
        if len(text) > MAX_CHARACTERS or text.count("\\") > _MAX_BACKSLASHES:
            raise BadExpression(f"may have {MAX_CHARACTERS} characters, {_MAX_BACKSLASHES} backslashes among them")
        try:
            with _parsing:
                self._tree = _environment().compile(text)
        except CELParseError as error:
            where = f" at column {error.column}" if error.column else ""
            raise BadExpression(f"is not valid CEL{where}; an example of an expression is 2 < 3") from error
        except RecursionError as error:
            raise BadExpression("is nested too deeply") from error
        self.text = text

    def names(self) -> set[str]:
        """Return the names of the variables that the expression needs."""
        found = {_token(tree) for tree in self._tree.find_data("ident")}
        bound = {name for tree in self._tree.find_data("member_dot_arg") for name in _bound_by(tree)}
        return found - bound - _TYPES

    def members(self, name: str) -> Iterator[str | None]:
        """Yield the name of each member of a variable that is read; None for one that is not written out."""
        parents = {id(child): tree for tree in self._tree.iter_subtrees() for child in tree.children}
        for tree in self._tree.find_data("ident"):
            if _token(tree) == name:
                yield _member(tree, parents)

    def holds(self, variables: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for variables of JSON.

        Raises:
            NotEvaluated: it has no value, or one that is neither true nor false, or would cost too much.
        """
        try:
            context = cast("Context", {name: value_of(value) for name, value in variables.items()})
            runner = _environment().program(self._tree, dict(OPERATORS))
            value = _Bounded(self._tree, runner.new_activation(), _Budget()).evaluate(context)
        except CELEvalError as error:
            raise NotEvaluated(_words(error)) from error
        except NoValue as error:
            raise NotEvaluated(str(error)) from error
        except RecursionError as error:
            raise NotEvaluated("it is nested too deeply") from error
        if not isinstance(value, BoolType):
            raise NotEvaluated("it is neither true nor false")
        return bool(value)


@functools.cache
def _environment() -> celpy.Environment:
    return celpy.Environment()


class _Budget:
    def __init__(self) -> None:
        self.steps = _MAX_STEPS

    def spend(self, value: Any) -> None:
        size = len(value) if isinstance(value, str | bytes | list | dict) else 0
        self.steps -= 1 + size // _CHARACTERS_PER_STEP
        if self.steps < 0:
            raise NotEvaluated("it takes too many steps; say it more simply, or of shorter texts")


class _Bounded(Evaluator):
    """CEL's evaluator, which stops when its budget is used up: macros within macros could go on for hours."""

    def __init__(self, ast: Tree[Token], activation: Activation, budget: _Budget) -> None:
        super().__init__(ast, activation)
        self._budget = budget

    def _visit_tree(self, tree: Tree[Token]) -> Any:
        value = super()._visit_tree(tree)
        self._budget.spend(value)
        return value

    def function_eval(self, name_token: Token, exprlist: Any = None) -> Any:
        convert = CONVERSIONS.get(str(name_token))
        if convert is None:
            return super().function_eval(name_token, exprlist)
        if isinstance(exprlist, CELEvalError):
            return exprlist
        given = list(exprlist or ())
        for value in given:
            if isinstance(value, CELEvalError):
                return value
        try:
            return convert(*given)
        except (TypeError, ValueError, OverflowError) as error:
            what = "no such overload" if isinstance(error, TypeError) else "it converts what cannot be converted"
            return CELEvalError(what, type(error), error.args, token=name_token)

    def sub_evaluator(self, ast: Tree[Token]) -> Evaluator:
        return _Bounded(ast, self.activation, self._budget)


def _words(error: CELEvalError) -> str:
    said = str(error.args[0]) if error.args else "it has no value"
    return "it combines values whose types do not fit" if "overload" in said else said


def _token(tree: Tree[Token]) -> str:
    return str(tree.children[0])


def _bound_by(call: Tree[Token]) -> Iterator[str]:
    """Yield the variables that a macro binds: its first arguments, as far as they are names."""
    if str(call.children[1]) not in _MACROS or len(call.children) < 3 or call.children[2] is None:
        return
    arguments = cast("Tree[Token]", call.children[2])
    for argument in arguments.children[: 2 if str(call.children[1]) == "reduce" else 1]:
        for name in cast("Tree[Token]", argument).find_data("ident"):
            yield _token(name)


def _member(name: Tree[Token], parents: Mapping[int, Tree[Token]]) -> str | None:
    tree = name
    while (parent := parents.get(id(tree))) is not None and parent.data in {"primary", "member"}:
        tree = parent
    if parent is None or parent.children[0] is not tree:
        return None
    if parent.data == "member_dot":
        return str(parent.children[1])
    if parent.data == "member_index":
        leaves = list(cast("Tree[Token]", parent.children[1]).scan_values(lambda leaf: isinstance(leaf, Token)))
        if len(leaves) == 1 and leaves[0].type == "STRING_LIT" and leaves[0][0] in "'\"" and "\\" not in leaves[0]:
            return str(leaves[0][1:-1])
    return None
