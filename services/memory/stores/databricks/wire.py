"""What goes over the wire: batches of rows as they are sent, and answers held against what their kind must have.

An answer that lacks what makes it one is a failure: nothing may be taken as done, or as empty, that the workspace did
not say.
"""

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from services.memory.domain.vectors import Vector
from services.memory.rows.columns import Column
from services.memory.rows.values import format_time, read_vector

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_WRITTEN = ("SUCCESS", "PARTIAL_SUCCESS", "FAILURE")

Json = dict[str, Any]
SCORE = "score"
_MOST_SCORE = 1e300
"""More than any formula gives; larger whole numbers are no floats at all."""


class BadAnswer(ValueError):
    """An answer is not one of its kind."""


@dataclass(frozen=True, slots=True)
class WireRow:
    """A row as it is written: its primary key and its JSON text."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one request: their keys and its body."""

    keys: Sequence[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class QueryPage:
    """Rows of a query by column name, the score under `SCORE`, and the token of the next page."""

    rows: list[Json]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ScanPage:
    """Rows of a scan and the key that the next page follows; empty at the end."""

    rows: list[Json]
    last_key: str
    vague: bool
    """Whether the answer says neither that there are rows nor that there are none."""


def read_document(data: bytes) -> Json | None:
    """Return the JSON object of an answer with its keys in snake case, or None when it is none."""
    try:
        document = json.loads(data)
        if _HALF_CHARACTER.search(data):
            # JSON can have half a character, which no message and no header can hold.
            document = json.loads(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
        return _snake_case(document) if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        return None


def encode(body: Json) -> bytes:
    """Return a body."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def encode_vector(vector: Vector) -> str:
    """Return a vector as JSON text: nine digits bring every float32 back exactly, and take a sixth of the time."""
    return _vector_form(len(vector)) % tuple(vector.tolist())


@functools.lru_cache(maxsize=64)
def _vector_form(dimension: int) -> str:
    return f"[{','.join(['%.9g'] * dimension)}]"


@functools.lru_cache(maxsize=64)
def zeros(dimension: int) -> str:
    """Return the vector of a query that has none."""
    return f"[{','.join(['0'] * dimension)}]"


def encode_batches(rows: Sequence[WireRow], max_rows: int, max_bytes: int) -> list[Batch]:
    """Return rows in batches of so many rows and bytes at most."""
    batches: list[Batch] = []
    waiting: list[WireRow] = []
    size = 0

    def close() -> None:
        if waiting:
            inputs = f"[{','.join(row.text for row in waiting)}]"
            batches.append(Batch([row.key for row in waiting], encode({"inputs_json": inputs})))
            waiting.clear()

    for row in rows:
        # As part of a JSON string the row grows by its quotes and backslashes.
        cost = len(row.text) + row.text.count('"') + row.text.count("\\") + 1
        if waiting and (len(waiting) == max_rows or size + cost > max_bytes):
            close()
            size = 0
        waiting.append(row)
        size += cost
    close()
    return batches


def wire_row(row: Mapping[str, Any]) -> WireRow:
    """Return a row as JSON takes it; what is absent is left out."""
    plain: Json = {}
    vector = ""
    for name, value in row.items():
        if isinstance(value, datetime):
            plain[name] = format_time(value)
        elif isinstance(value, np.ndarray):
            vector = f",{json.dumps(name)}:{encode_vector(value)}"
        elif value is not None:
            plain[name] = value
    text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    return WireRow(row[Column.ID], f"{text[:-1]}{vector}}}")


def can_be_written(row: Mapping[str, Any]) -> bool:
    """Return whether a row that was read can be written again: it has a vector, and nothing that JSON has no form for.

    Rows that something else has written may hold NaN.
    """
    if read_vector(row.get(Column.EMBEDDING)) is None:
        return False
    return all(_has_form(value) for name, value in row.items() if name != Column.EMBEDDING)


def _has_form(value: object) -> bool:
    return math.isfinite(value) if isinstance(value, float) else not isinstance(value, list | dict)


def unwritten(answer: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the keys of rows that cannot be counted on: all, where fewer are named than were not written."""
    failed = failed_keys(answer, keys)
    written = (answer.get("result") or {}).get("success_row_count")
    try:
        # Numbers of 64 bits come as text from some front ends.
        missing = 0 if written is None else len(keys) - int(written)
    except (TypeError, ValueError, OverflowError):
        raise BadAnswer("success_row_count") from None
    return failed if missing <= len(failed) else list(keys)


def failed_keys(answer: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the keys that were not taken."""
    status, result = answer.get("status"), answer.get("result") or {}
    named = result.get("failed_primary_keys") or [] if isinstance(result, dict) else None
    # Without the word for it nothing may be taken as done.
    if status not in _WRITTEN or not isinstance(named, list):
        raise BadAnswer("status")
    # When the answer does not say which ones failed, none can be relied on.
    return list(keys) if status != "SUCCESS" and not named else [str(key) for key in named]


def query_page(answer: Mapping[str, Any], *, scored: bool = False) -> QueryPage:
    """Return a page of a query. One without rows says so: it names its columns, and counts none.

    With `scored` the rows have numbers as their scores; some, whose vectors cannot be compared, may have NaN or none.
    """
    names = [column["name"] for column in answer["manifest"]["columns"]]
    result = answer["result"]
    values = result.get("data_array") or []
    counted = int(result.get("row_count") or 0)
    token = answer.get("next_page_token") or ""
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadAnswer("manifest")
    if not isinstance(values, list) or not all(isinstance(row, list) for row in values) or not isinstance(token, str):
        raise BadAnswer("data_array")
    # The score is one extra value at the end, which not every front end names in the manifest.
    if set(map(len, values)) - {len(names), len(names) + 1} or (not token and counted > len(values)):
        raise BadAnswer("data_array")
    named = names if SCORE in names else [*names, SCORE]
    rows = [dict(zip(named, row, strict=False)) for row in values]
    if scored and rows:
        scores = [score for row in rows if not is_no_score(score := row.get(SCORE))]
        if not scores or not all(map(_is_score, scores)):
            raise BadAnswer(SCORE)
    return QueryPage(rows, token)


def is_no_score(value: object) -> bool:
    """Return whether a score says that a row cannot be compared."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_SCORE


def scan_page(answer: Mapping[str, Any]) -> ScanPage:
    """Return a page of a scan."""
    data, last = answer.get("data") or [], answer.get("last_primary_key")
    if not isinstance(data, list) or not isinstance(last, str | int | None) or isinstance(last, bool):
        raise BadAnswer("scan")
    rows = [{str(field["key"]): _plain(field.get("value") or {}) for field in row.get("fields") or []} for row in data]
    return ScanPage(rows, "" if last is None else str(last), vague="data" not in answer)


def described(answer: Json, name: str) -> Json:
    """Return the description of an index or an endpoint, which has its name; workspaces ignore the case."""
    found = answer.get("name")
    if not isinstance(found, str) or found.lower() != name.lower():
        raise BadAnswer("name")
    return answer


def listed(answer: Mapping[str, Any], name: str) -> tuple[list[Json], str]:
    """Return what a page of a list holds, and the token of the next one; one without anything may have no list."""
    rows, token = answer.get(name) or [], answer.get("next_page_token") or ""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not isinstance(token, str):
        raise BadAnswer(name)
    return rows, token


def _plain(value: Mapping[str, Any]) -> Any:
    """Read a value in the encoding of protobuf's Struct."""
    for kind in ("string_value", "number_value", "bool_value"):
        if kind in value:
            return value[kind]
    if "list_value" in value:
        return [_plain(item) for item in value["list_value"].get("values") or []]
    return None


def _snake_case(value: Any) -> Any:
    """Return the document with keys in snake case, as some front ends answer in camel case. Rows are left alone."""
    if isinstance(value, dict):
        return {
            _snake_name(name): item if name in ("data_array", "dataArray") else _snake_case(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_snake_case(item) for item in value]
    return value


def _snake_name(name: str) -> str:
    if name.islower():
        return name
    return "".join(f"_{character.lower()}" if character.isupper() else character for character in name)
