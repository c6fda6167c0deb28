"""The rows of one emulated index: typed columns, filters, exact nearest neighbours, keyset scan."""

from __future__ import annotations

import bisect
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.vector_search_filters import AllOf, AnyOf, Compare, Condition, FilterError, IsNull, Like, OneOf

Key = str | int
Row = dict[str, Any]
Hit = tuple[int, float]
"""Position of a row and its score."""

_INTEGERS = frozenset({"int", "integer", "short", "smallint", "long", "bigint"})
_FLOATS = frozenset({"float", "double"})
_TEXTS = frozenset({"string", "date", "timestamp"})
SCALAR_TYPES = _INTEGERS | _FLOATS | _TEXTS | {"boolean"}
_ARRAY = re.compile(r"array<(\w+)>")
_WORD = re.compile(r"\w+")

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "!=": operator.ne,
}
_RANK_CONSTANT = 60
FLOAT32_MAX = float(np.finfo(np.float32).max)
_DISTANCE_DIGITS = 6
_RERANKED_CHARACTERS = 2000
"""Of the columns together that the reranking model reads."""


def element_type(column_type: str) -> str | None:
    """`float` for `array<float>`; None for what is no array."""
    read = _ARRAY.fullmatch(column_type)
    return read[1] if read else None


def is_known_type(column_type: str) -> bool:
    return (element_type(column_type) or column_type) in SCALAR_TYPES


def fits(value: Any, column_type: str) -> bool:
    """Whether a JSON value may stand in a column of this type; null always may."""
    if value is None:
        return True
    inner = element_type(column_type)
    if inner is not None:
        return isinstance(value, list) and all(item is not None and fits(item, inner) for item in value)
    if column_type == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if column_type in _INTEGERS:
        return isinstance(value, int)
    if column_type in _FLOATS:
        return isinstance(value, int | float) and math.isfinite(value)
    if not isinstance(value, str):
        return False
    return column_type == "string" or _is_time(value, column_type)


def _is_time(text: str, column_type: str) -> bool:
    try:
        (date if column_type == "date" else datetime).fromisoformat(text)
    except ValueError:
        return False
    return True


Score = Callable[[float], float]
"""The score of a squared L2 distance."""


def score_of_square(squared: float) -> float:
    return 1.0 / (1.0 + squared)


SCORES: dict[str, Score] = {
    "SQUARED_DISTANCE": score_of_square,
    "DISTANCE": lambda squared: 1.0 / (1.0 + math.sqrt(squared)),
    # Of unit vectors.
    "COSINE": lambda squared: 1.0 - squared / 2.0,
    "SHIFTED_COSINE": lambda squared: 1.0 - squared / 4.0,
    "NEGATIVE_DISTANCE": lambda squared: -math.sqrt(squared),
}


class VectorTable:
    """Rows by primary key. Ties are ordered by key."""

    def __init__(self, schema: dict[str, str], primary_key: str, vector_column: str, dimension: int) -> None:
        self.schema = schema
        self.primary_key = primary_key
        self.vector_column = vector_column
        self.dimension = dimension
        self._rows: list[Row | None] = []
        self._places: dict[Key, int] = {}
        self._free: list[int] = []
        self._matrix = np.zeros((16, dimension), dtype=np.float32)
        self._squares = np.zeros(16, dtype=np.float32)
        self._values: dict[str, dict[Any, set[int]]] = {name: {} for name in schema if name != vector_column}
        self._ordered_keys: list[Any] | None = []

    def __len__(self) -> int:
        return len(self._places)

    # Rows

    def key_of(self, given: object) -> Key | None:
        """A key as this table holds it, also from its decimal text; None when it cannot be one."""
        if self.schema[self.primary_key] not in _INTEGERS:
            return given if isinstance(given, str) and given else None
        if isinstance(given, str) and re.fullmatch(r"-?\d+", given):
            return int(given)
        return given if isinstance(given, int) and not isinstance(given, bool) else None

    def complaint(self, row: Row) -> str | None:
        """Why a row cannot be stored, or None."""
        for name, value in row.items():
            if name not in self.schema:
                return f"unknown column {name}"
            if not fits(value, self.schema[name]):
                return f"column {name} is no {self.schema[name]}"
        vector = row.get(self.vector_column)
        if vector is None:
            return f"column {self.vector_column} is missing"
        if len(vector) != self.dimension:
            return f"column {self.vector_column} has {len(vector)} dimensions, the index has {self.dimension}"
        if any(abs(value) > FLOAT32_MAX for value in vector):
            return f"column {self.vector_column} holds a number beyond single precision"
        return None

    def put(self, row: Row) -> None:
        """Store a row, in place of one with its key. The row must be without complaint."""
        key = row[self.primary_key]
        self.remove(key)
        place = self._free.pop() if self._free else len(self._rows)
        if place == len(self._rows):
            self._rows.append(None)
            if place == len(self._matrix):
                self._matrix = np.concatenate([self._matrix, np.zeros_like(self._matrix)])
                self._squares = np.concatenate([self._squares, np.zeros_like(self._squares)])
        self._rows[place] = {name: value for name, value in row.items() if name != self.vector_column}
        self._matrix[place] = row[self.vector_column]
        self._squares[place] = self._matrix[place] @ self._matrix[place]
        self._places[key] = place
        self._ordered_keys = None
        for name, value in self._indexed(place):
            self._values[name].setdefault(value, set()).add(place)

    def remove(self, key: Key) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        for name, value in self._indexed(place):
            places = self._values[name][value]
            places.discard(place)
            if not places:
                del self._values[name][value]
        self._rows[place] = None
        self._free.append(place)
        self._ordered_keys = None

    def cells(self, place: int, columns: Iterable[str]) -> list[Any]:
        row = self._rows[place]
        if row is None:
            raise LookupError(f"no row at {place}")
        return [self._matrix[place].tolist() if name == self.vector_column else row.get(name) for name in columns]

    def _indexed(self, place: int) -> list[tuple[str, Any]]:
        pairs: list[tuple[str, Any]] = []
        for name, value in (self._rows[place] or {}).items():
            if isinstance(value, list):
                pairs.extend((name, item) for item in set(value))
            elif value is not None:
                pairs.append((name, value))
        return pairs

    # Queries

    def scan(self, after: Key | None, limit: int) -> list[int]:
        """Places of up to `limit` rows whose keys follow `after`, in the order of keys."""
        if self._ordered_keys is None:
            self._ordered_keys = sorted(self._places)
        start = 0 if after is None else bisect.bisect_right(self._ordered_keys, after)
        return [self._places[key] for key in self._ordered_keys[start : start + limit]]

    def nearest(
        self, vector: list[float], condition: Condition | None, limit: int, score: Score = score_of_square
    ) -> list[Hit]:
        places = self._candidates(condition)
        query = np.asarray(vector, dtype=np.float32)
        matrix, squares = self._matrix, self._squares
        # Without gaps the whole prefix is meant, and a copy of it can be saved.
        if len(places) == len(self._rows):
            rows, lengths = matrix[: len(places)], squares[: len(places)]
        else:
            rows, lengths = matrix[places], squares[places]
        distances = lengths - 2.0 * (rows @ query) + query @ query
        distances = np.round(np.maximum(distances, 0.0), _DISTANCE_DIGITS)
        if len(places) > limit:
            furthest = np.partition(distances, limit - 1)[limit - 1]
            kept = np.flatnonzero(distances <= furthest)
        else:
            kept = np.arange(len(places))
        ranked = sorted((float(distances[i]), self._key_at(int(places[i])), int(places[i])) for i in kept)
        return [(place, score(distance)) for distance, _, place in ranked[:limit]]

    def full_text(self, text: str, columns: Collection[str], condition: Condition | None, limit: int) -> list[Hit]:
        """Rows that hold words of `text` in text columns, by BM25: words count by how many of all rows have them,
        whether or not these meet the condition, as in any index that one search engine keeps for many.
        """
        wanted = set(_WORD.findall(text.casefold()))
        names = list(columns) or [name for name, kind in self.schema.items() if kind == "string"]
        texts = {place: self._words(place, names) for place in self._places.values()}
        count, mean = len(texts), sum(map(len, texts.values())) / max(1, len(texts))
        having = {word: sum(word in words for words in texts.values()) for word in wanted}
        found: list[tuple[float, Any, int]] = []
        for place in self._candidates(condition).tolist():
            words = texts[place]
            score = 0.0
            for word in wanted & set(words):
                rarity = math.log(1.0 + (count - having[word] + 0.5) / (having[word] + 0.5))
                times, length = words.count(word), 0.25 + 0.75 * len(words) / mean
                score += rarity * times * 2.2 / (times + 1.2 * length)
            if score:
                found.append((-round(score, _DISTANCE_DIGITS), self._key_at(place), place))
        return [(place, -score) for score, _, place in sorted(found)[:limit]]

    def _words(self, place: int, columns: Iterable[str]) -> list[str]:
        cells = self.cells(place, columns)
        return _WORD.findall(" ".join(cell for cell in cells if isinstance(cell, str)).casefold())

    def reranked(self, hits: list[Hit], text: str, columns: Collection[str]) -> list[Hit]:
        """The hits in the order of a model that reads these columns beside the text, with its scores, from 0 to 1.

        It likes texts that have the words of the query in the query's order, early, and little else.
        """
        wanted = _WORD.findall(text.casefold())
        judged: list[tuple[float, Any, int]] = []
        for place, _ in hits:
            read = " ".join(cell for cell in self.cells(place, columns) if isinstance(cell, str))[:_RERANKED_CHARACTERS]
            words = _WORD.findall(read.casefold())
            same = sum(1 for mine, theirs in zip(wanted, words, strict=False) if mine == theirs)
            shared = len(set(wanted) & set(words))
            score = (same + shared) / (len(wanted) + max(len(wanted), len(words)) or 1)
            judged.append((-round(min(1.0, score), _DISTANCE_DIGITS), self._key_at(place), place))
        return [(place, -score) for score, _, place in sorted(judged)]

    def hybrid(
        self, vector: list[float], text: str, columns: Collection[str], condition: Condition | None, limit: int
    ) -> list[Hit]:
        """Reciprocal rank fusion of `nearest` and `full_text`."""
        scores: dict[int, float] = {}
        for hits in (self.nearest(vector, condition, limit), self.full_text(text, columns, condition, limit)):
            for rank, (place, _) in enumerate(hits):
                scores[place] = scores.get(place, 0.0) + 1.0 / (_RANK_CONSTANT + rank)
        ranked = sorted(scores, key=lambda place: (-scores[place], self._key_at(place)))
        return [(place, scores[place]) for place in ranked[:limit]]

    def _key_at(self, place: int) -> Any:
        return self.cells(place, [self.primary_key])[0]

    def _candidates(self, condition: Condition | None) -> NDArray[np.intp]:
        if condition is None:
            places: Collection[int] = self._places.values()
        else:
            places = self._meeting(condition)
        return np.sort(np.fromiter(places, dtype=np.intp, count=len(places)))

    def _meeting(self, condition: Condition) -> Collection[int]:
        match condition:
            case AllOf(conditions):
                if not conditions:
                    return self._places.values()
                parts = sorted((set(self._meeting(part)) for part in conditions), key=len)
                return set.intersection(*parts)
            case AnyOf(conditions):
                return set().union(*(self._meeting(part) for part in conditions))
            case IsNull(column, negative):
                filled = set().union(*self._column(column).values())
                return filled if negative else set(self._places.values()) - filled
            case Compare(column, "=", value):
                self._check_value(column, value)
                return self._column(column).get(value, set())
            case Compare(column, comparison, value):
                self._check_value(column, value)
                test = _COMPARISONS[comparison]
                return self._where(column, lambda cell: test(cell, value))
            case OneOf(column, values, negative):
                for value in values:
                    self._check_value(column, value)
                wanted = frozenset(values)
                return self._where(column, lambda cell: (cell in wanted) is not negative)
            case Like(column):
                if (element_type(self.schema.get(column, "")) or self.schema.get(column)) != "string":
                    raise FilterError(f"LIKE needs a string column, {column} is none")
                return self._where(column, condition.holds)

    def _where(self, column: str, test: Callable[[Any], bool]) -> set[int]:
        return set().union(*(places for cell, places in self._column(column).items() if test(cell)))

    def _column(self, name: str) -> dict[Any, set[int]]:
        if name not in self._values:
            raise FilterError(f"column {name} cannot be filtered by")
        return self._values[name]

    def _check_value(self, column: str, value: Any) -> None:
        self._column(column)
        kind = element_type(self.schema[column]) or self.schema[column]
        numeric = kind in _INTEGERS | _FLOATS
        if numeric and isinstance(value, int | float) and not isinstance(value, bool):
            return
        if not fits(value, kind):
            raise FilterError(f"column {column} is {self.schema[column]}, {value!r} is not")
