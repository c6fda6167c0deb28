"""Filters and conditions that select records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True)
class Filter:
    """Narrows records down; everything given must hold."""

    conditions: tuple[Condition, ...] = ()
    scope_prefix: str = ""
    """Normalised; empty means all."""
    categories: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Keys and, as JSON text, the value that each must equal as `json_equal` compares them."""
    created_before: datetime | None = None
    source: str = ""
    include_private: bool = False


EVERYTHING = Filter(include_private=True)
