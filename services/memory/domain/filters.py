"""Filters and conditions that select records."""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

from services.memory.domain.json_equality import json_key

_WORD = re.compile(r"\w+")

Scalar: TypeAlias = str | int | float | bool | datetime
"""A value of a column that conditions may name."""


class Comparison(StrEnum):
    """How a condition compares a column with its values."""

    EQUAL = "EQUAL"
    NOT_EQUAL = "NOT_EQUAL"
    LESS = "LESS"
    LESS_OR_EQUAL = "LESS_OR_EQUAL"
    GREATER = "GREATER"
    GREATER_OR_EQUAL = "GREATER_OR_EQUAL"
    CONTAINS = "CONTAINS"
    STARTS_WITH = "STARTS_WITH"


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison, already checked against the kind's schema."""

    column: str
    comparison: Comparison
    values: tuple[Scalar, ...]
    among: frozenset[Scalar] = field(init=False, repr=False, compare=False)
    """The values, to find one of thousands by."""
    words: frozenset[str] = field(init=False, repr=False, compare=False)
    """Those that CONTAINS looks for."""

    def __post_init__(self) -> None:
        looks_for_words = self.comparison is Comparison.CONTAINS
        object.__setattr__(self, "among", frozenset(self.values))
        object.__setattr__(self, "words", search_words(str(self.values[0])) if looks_for_words else frozenset())


class MetadataComparison(StrEnum):
    """How a condition compares a value within metadata with its own values."""

    EQUAL = "EQUAL"
    NOT_EQUAL = "NOT_EQUAL"
    LESS = "LESS"
    LESS_OR_EQUAL = "LESS_OR_EQUAL"
    GREATER = "GREATER"
    GREATER_OR_EQUAL = "GREATER_OR_EQUAL"
    CONTAINS = "CONTAINS"
    EXISTS = "EXISTS"


@dataclass(frozen=True, slots=True)
class MetadataCondition:
    """One comparison of what a path of keys leads to; `values` are JSON values, as many as the comparison takes."""

    path: tuple[str, ...]
    comparison: MetadataComparison
    values: tuple[Any, ...] = ()
    among: frozenset[Hashable] = field(init=False, repr=False, compare=False)
    """The keys of the values (`json_key`), to find one of thousands by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "among", frozenset(map(json_key, self.values)))


@dataclass(frozen=True, slots=True)
class AllOf:
    """Holds where every part does."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds where at least one part does."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Holds where the part does not."""

    part: "Expression"


Expression: TypeAlias = Condition | MetadataCondition | AllOf | AnyOf | Not


@dataclass(frozen=True, slots=True)
class Filter:
    """Narrows records down; everything given must hold."""

    conditions: tuple[Condition, ...] = ()
    scope_prefix: str = ""
    """Normalised; empty means all."""
    categories: frozenset[str] = frozenset()
    """At least one of these."""
    all_categories: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys and, as JSON text, the value that each must equal as `json_equal` compares them."""
    created_before: datetime | None = None
    created_after: datetime | None = None
    """At this time or later."""
    expression: Expression | None = None
    subject: str = ""
    """Only records that are tied to this verified subject; empty means all."""
    subject_alone: bool = False
    """Of those only records that are nobody else's: see `Ties.are_of_alone`."""
    source: str = ""
    """Private records are of this source alone, unless it is empty."""
    owner: str = ""
    """Whose private records are there too; empty means nobody's."""
    include_private: bool = False
    """Whether those of everybody are there."""


EVERYTHING = Filter(include_private=True)


def search_words(text: str) -> frozenset[str]:
    """Return the words that CONTAINS looks for: runs of letters, digits and underscores, without case."""
    return frozenset(_WORD.findall(text.casefold()))
