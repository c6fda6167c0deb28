"""The two filter languages of Databricks Vector Search, read into one condition tree.

Standard endpoints take a JSON object (`{"group": ["a", "b"], "age >=": 3}`; a list of objects is their conjunction),
storage-optimized ones a SQL-like string (`group IN ('a', 'b') AND age >= 3`). A null value meets no comparison, negated
or not; the documentation does not say what the service does there, and this is SQL's answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool

MAX_ELEMENTS = 1024

_NEGATED = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


class FilterError(ValueError):
    """The filter cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Compare:
    column: str
    operator: str
    """One of = != < <= > >=."""
    value: Scalar

    def negated(self) -> Condition:
        return Compare(self.column, _NEGATED[self.operator], self.value)


@dataclass(frozen=True, slots=True)
class OneOf:
    column: str
    values: tuple[Scalar, ...]
    negative: bool = False

    def negated(self) -> Condition:
        return OneOf(self.column, self.values, not self.negative)


@dataclass(frozen=True, slots=True)
class Like:
    column: str
    pattern: str
    tokens: bool
    """Whether the pattern is one whitespace-separated token, not a SQL pattern."""
    negative: bool = False

    def negated(self) -> Condition:
        return Like(self.column, self.pattern, self.tokens, not self.negative)

    def holds(self, text: str) -> bool:
        return self._matches(text) is not self.negative

    def _matches(self, text: str) -> bool:
        if self.tokens:
            return self.pattern in text.split()
        wild = {"%": ".*", "_": "."}
        expression = "".join(wild.get(char) or re.escape(char) for char in self.pattern)
        return re.fullmatch(expression, text, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class IsNull:
    column: str
    negative: bool = False

    def negated(self) -> Condition:
        return IsNull(self.column, not self.negative)


@dataclass(frozen=True, slots=True)
class AllOf:
    conditions: tuple[Condition, ...]

    def negated(self) -> Condition:
        return AnyOf(tuple(condition.negated() for condition in self.conditions))


@dataclass(frozen=True, slots=True)
class AnyOf:
    conditions: tuple[Condition, ...]

    def negated(self) -> Condition:
        return AllOf(tuple(condition.negated() for condition in self.conditions))


Condition = Compare | OneOf | Like | IsNull | AllOf | AnyOf

# The dict language

_KEY = re.compile(r"(?P<columns>[^\s<>=!]+(?:\s+OR\s+[^\s<>=!]+)*)(?:\s+(?P<operator>NOT LIKE|NOT|LIKE|<=|>=|<|>))?")


def read_dict_filter(given: Any) -> Condition:
    """Read the value of `filters_json`; FilterError when it is not of the dict language."""
    if isinstance(given, list):
        if not given or not all(isinstance(item, dict) for item in given):
            raise FilterError("a filter list must hold objects")
        return AllOf(tuple(read_dict_filter(item) for item in given))
    if not isinstance(given, dict):
        raise FilterError("filters must be a JSON object")
    return AllOf(tuple(_dict_condition(key, value) for key, value in given.items()))


def _dict_condition(key: str, value: Any) -> Condition:
    read = _KEY.fullmatch(key.strip())
    if read is None:
        raise FilterError(f"cannot read filter key {key!r}")
    columns = re.split(r"\s+OR\s+", read["columns"])
    if len(columns) == 1:
        return _dict_leaf(columns[0], read["operator"], value)
    values = value if isinstance(value, list) else [value] * len(columns)
    if len(values) != len(columns):
        raise FilterError(f"filter {key!r} needs one value per column")
    pairs = zip(columns, values, strict=True)
    return AnyOf(tuple(_dict_leaf(column, read["operator"], item) for column, item in pairs))


def _dict_leaf(column: str, operator: str | None, value: Any) -> Condition:
    if operator in ("LIKE", "NOT LIKE"):
        if not isinstance(value, str):
            raise FilterError(f"LIKE on {column} needs a string")
        return Like(column, value, tokens="%" not in value, negative=operator == "NOT LIKE")
    if operator in ("<", "<=", ">", ">="):
        return Compare(column, operator, _scalar(column, value))
    if isinstance(value, list):
        if not value or len(value) > MAX_ELEMENTS:
            raise FilterError(f"filter on {column} needs 1 to {MAX_ELEMENTS} values, not {len(value)}")
        return OneOf(column, tuple(_scalar(column, item) for item in value), negative=operator == "NOT")
    return Compare(column, "!=" if operator == "NOT" else "=", _scalar(column, value))


def _scalar(column: str, value: Any) -> Scalar:
    if not isinstance(value, str | int | float | bool):
        raise FilterError(f"filter on {column} needs a string, number or boolean")
    return value


# The string language

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r"|(?P<symbol><=|>=|!=|<>|[=<>(),])|`(?P<quoted>[^`]+)`|(?P<word>[A-Za-z_]\w*))"
)
_KEYWORDS = frozenset({"AND", "OR", "NOT", "IN", "LIKE", "IS", "NULL", "TRUE", "FALSE", "BETWEEN"})


def read_string_filter(text: str) -> Condition:
    """Read the value of `filter_string`; FilterError when it is not of the string language."""
    try:
        return _Parser(text).whole()
    except RecursionError:
        raise FilterError("the filter is nested too deeply") from None


class _Parser:
    """Recursive descent: OR binds weaker than AND, AND weaker than NOT."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0

    def whole(self) -> Condition:
        condition = self._any_of()
        if self._next < len(self._tokens):
            raise FilterError(f"unexpected {self._tokens[self._next][1]!r}")
        return condition

    def _any_of(self) -> Condition:
        parts = [self._all_of()]
        while self._took("OR"):
            parts.append(self._all_of())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all_of(self) -> Condition:
        parts = [self._unary()]
        while self._took("AND"):
            parts.append(self._unary())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _unary(self) -> Condition:
        if self._took("NOT"):
            return self._unary().negated()
        if self._took("("):
            condition = self._any_of()
            self._expect(")")
            return condition
        return self._leaf()

    def _leaf(self) -> Condition:
        column = self._take("column")
        if self._took("IS"):
            negative = self._took("NOT")
            self._expect("NULL")
            return IsNull(column, negative)
        negative = self._took("NOT")
        condition: Condition
        if self._took("IN"):
            condition = OneOf(column, self._values())
        elif self._took("LIKE"):
            condition = Like(column, self._take("string"), tokens=False)
        elif self._took("BETWEEN"):
            low = self._value()
            self._expect("AND")
            condition = AllOf((Compare(column, ">=", low), Compare(column, "<=", self._value())))
        elif negative:
            raise FilterError(f"NOT after {column!r} needs IN, LIKE or BETWEEN")
        else:
            operator = self._take("symbol")
            if operator not in ("=", "!=", "<>", "<", "<=", ">", ">="):
                raise FilterError(f"{operator!r} is no comparison")
            return Compare(column, "!=" if operator == "<>" else operator, self._value())
        return condition.negated() if negative else condition

    def _values(self) -> tuple[Scalar, ...]:
        self._expect("(")
        values = [self._value()]
        while self._took(","):
            values.append(self._value())
        self._expect(")")
        if len(values) > MAX_ELEMENTS:
            raise FilterError(f"IN takes at most {MAX_ELEMENTS} values, not {len(values)}")
        return tuple(values)

    def _value(self) -> Scalar:
        if self._took("TRUE"):
            return True
        if self._took("FALSE"):
            return False
        kind, text = self._peek()
        self._next += 1
        if kind == "string":
            return text
        if kind == "number":
            return float(text) if re.search(r"[.eE]", text) else int(text)
        raise FilterError(f"expected a value, found {text!r}")

    def _peek(self) -> tuple[str, str]:
        if self._next >= len(self._tokens):
            raise FilterError("the filter ends too early")
        return self._tokens[self._next]

    def _took(self, text: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next] in (("keyword", text), ("symbol", text)):
            self._next += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._took(text):
            raise FilterError(f"expected {text!r}, found {self._peek()[1]!r}")

    def _take(self, kind: str) -> str:
        found, text = self._peek()
        if found != kind:
            raise FilterError(f"expected a {kind}, found {text!r}")
        self._next += 1
        return text


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    while text[position:].strip():
        read = _TOKEN.match(text, position)
        if read is None:
            raise FilterError(f"cannot read the filter from position {position}")
        position = read.end()
        if read["string"] is not None:
            tokens.append(("string", read["string"][1:-1].replace("''", "'")))
        elif read["number"] is not None:
            tokens.append(("number", read["number"]))
        elif read["symbol"] is not None:
            tokens.append(("symbol", read["symbol"]))
        elif read["quoted"] is not None:
            tokens.append(("column", read["quoted"]))
        elif read["word"].upper() in _KEYWORDS:
            tokens.append(("keyword", read["word"].upper()))
        else:
            tokens.append(("column", read["word"]))
    return tokens
