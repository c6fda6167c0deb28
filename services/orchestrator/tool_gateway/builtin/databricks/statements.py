"""The Statement Execution API: SQL with bound parameters, followed by the id of the statement."""

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from services.orchestrator.tool_gateway.builtin.databricks.workspace import Declined, Json, Workspace, is_id, text_of
from services.orchestrator.tool_gateway.http_bodies import BadBody
from services.orchestrator.tool_gateway.ports import CallProgress, OutcomeUnknown, ToolResult

API = "/api/2.0/sql/statements"
MAX_ROWS = 10_000
DEFAULT_ROWS = 1000
DEFAULT_BYTES = 1024 * 1024
_LAST_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "CLOSED"})
_INTEGERS = frozenset({"INT", "LONG", "SHORT", "BYTE", "BIGINT", "SMALLINT", "TINYINT"})
_MAX_CHUNKS = 1000


def statement_body(statement: str, config: Mapping[str, Any], parameters: list[Json]) -> Json:
    """Return the request that submits a statement without waiting for it."""
    body: Json = {
        "statement": statement,
        "warehouse_id": config["warehouse_id"],
        "wait_timeout": "0s",
        "on_wait_timeout": "CONTINUE",
        "disposition": "INLINE",
        "format": "JSON_ARRAY",
        "row_limit": int(config.get("row_limit") or DEFAULT_ROWS),
        "byte_limit": int(config.get("byte_limit") or DEFAULT_BYTES),
    }
    if parameters:
        body["parameters"] = parameters
    for name in ("catalog", "schema"):
        if config.get(name):
            body[name] = config[name]
    return body


def bound(name: str, value: Any) -> Json:
    """Return a parameter of a statement. Values are never part of its text.

    A value is a string, number, boolean or null, or an object with `value` and the name of a SQL `type`.
    """
    if isinstance(value, Mapping):
        return {"name": name, "value": _text(value.get("value")), "type": str(value.get("type") or "STRING")}
    if value is None:
        # One without a value is NULL.
        return {"name": name}
    if isinstance(value, bool):
        return {"name": name, "value": _text(value), "type": "BOOLEAN"}
    if isinstance(value, int):
        return {"name": name, "value": str(value), "type": "BIGINT" if abs(value) < 2**63 else "DECIMAL(38,0)"}
    return {"name": name, "value": _text(value), "type": "DOUBLE" if isinstance(value, float) else "STRING"}


async def run_statement(workspace: Workspace, body: Json, progress: CallProgress) -> ToolResult:
    """Submit a statement and return its rows.

    Raises:
        NotSent, OutcomeUnknown, CallRefused: see `ToolAdapter.call`.
    """
    try:
        answer = await workspace.begin(API, body, progress)
    except Declined as error:
        return ToolResult(str(error), is_error=True)
    statement_id = answer.get("statement_id")
    if not is_id(statement_id):
        raise OutcomeUnknown("the workspace took the statement, but gave no id of it")
    await progress.handle(statement_id)
    return await follow_statement(workspace, statement_id, progress)


async def follow_statement(workspace: Workspace, statement_id: str, progress: CallProgress) -> ToolResult:
    """Wait for a statement that was submitted before, and return its rows.

    Raises:
        OutcomeUnknown: the workspace does not say what became of it.
    """
    path = f"{API}/{quote(statement_id, safe='')}"

    async def cancel() -> None:
        await workspace.tell(f"{path}/cancel", {})

    try:
        answer = await workspace.watch(path, progress, _state, cancel, _check_result)
        state = _state(answer)[0]
        if state == "CLOSED":
            raise OutcomeUnknown(f"the statement {statement_id} has run, and its result is no longer kept", final=True)
        if state != "SUCCEEDED":
            return ToolResult(_failure(answer, state), is_error=True)
        return await _rows(workspace, path, answer, statement_id, progress)
    except Declined as error:
        raise OutcomeUnknown(
            f"the workspace does not say what became of statement {statement_id}: {error}", final=True
        ) from error


def _state(answer: Json) -> tuple[str, bool]:
    state = text_of(_object(answer, "status").get("state"))
    return state, state in _LAST_STATES


def _check_result(answer: Json) -> None:
    """Refuse a statement that succeeded, and whose result is none.

    One that returns no rows may have neither manifest nor result: both are optional.

    Raises:
        BadBody: it has a result without a manifest, or its rows do not fit it.
    """
    without_rows = answer.get("manifest") is None and answer.get("result") in (None, {})
    if _state(answer)[0] != "SUCCEEDED" or without_rows:
        return
    manifest, result = answer.get("manifest"), _object(answer, "result")
    if not isinstance(manifest, dict):
        raise BadBody("its result has no manifest")
    width = _width(manifest)
    _check_chunk(result, width)
    total = manifest.get("total_row_count")
    elsewhere = result.get("external_links") or manifest.get("truncated") is True
    if isinstance(total, int) and total > 0 and not result.get("data_array") and not elsewhere:
        raise BadBody("its result counts rows and has none")


def _width(manifest: Json) -> int | None:
    columns = _object(manifest, "schema").get("columns")
    return len(columns) if isinstance(columns, list) else None


def _check_chunk(chunk: Json, width: int | None) -> None:
    data = chunk.get("data_array")
    rows = [] if data is None else data
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise BadBody("its rows are no rows")
    if width is not None and any(len(row) != width for row in rows):
        raise BadBody("its rows do not fit their columns")


def _failure(answer: Json, state: str) -> str:
    error = _object(_object(answer, "status"), "error")
    text = str(error.get("message") or "")[:4096]
    return f"the statement ended as {state}" + (f": {error.get('error_code', '')} {text}" if text else "")


async def _rows(workspace: Workspace, path: str, answer: Json, statement_id: str, progress: CallProgress) -> ToolResult:
    manifest, chunk = _object(answer, "manifest"), _object(answer, "result")
    rows: list[list[Any]] = []
    current, width = 0, _width(manifest)

    def check(found: Json) -> None:
        if found.get("chunk_index") != current:
            raise BadBody(f"it is not part {current} of the result")
        _check_chunk(found, width)

    for _ in range(_MAX_CHUNKS):
        if chunk.get("external_links"):
            return ToolResult(
                "the workspace offers the result as links elsewhere, which are not followed; ask for fewer rows",
                is_error=True,
            )
        rows.extend(chunk.get("data_array") or [])
        following = chunk.get("next_chunk_index")
        if not isinstance(following, int) or isinstance(following, bool):
            break
        if following <= current:
            raise OutcomeUnknown(
                f"the statement {statement_id} has run, but the parts of its result lead in a circle", final=True
            )
        current = following
        if len(rows) >= MAX_ROWS or workspace.is_full:
            manifest = {**manifest, "truncated": True}
            break
        # By its number: a link of the answer could lead anywhere.
        chunk = await workspace.ask(f"{path}/result/chunks/{following}", progress, check=check)
    result = table(manifest, rows, statement_id)
    return ToolResult(to_text(result), structured=result)


def table(manifest: Json, rows: list[list[Any]], statement_id: str = "") -> Json:
    """Return rows with their columns, in the types that JSON has."""
    described = _object(manifest, "schema").get("columns")
    columns = [
        {"name": str(column.get("name")), "type": str(column.get("type_text") or column.get("type_name") or "")}
        for column in (described if isinstance(described, list) else [])
        if isinstance(column, Mapping)
    ]
    kinds = [column["type"].upper() for column in columns]
    total = manifest.get("total_row_count")
    result: Json = {
        "columns": columns,
        "rows": [
            [_value(cell, kinds[place] if place < len(kinds) else "") for place, cell in enumerate(row)] for row in rows
        ],
        "row_count": len(rows),
        "truncated": manifest.get("truncated") is True or (isinstance(total, int) and total > len(rows)),
    }
    return {**result, "statement_id": statement_id} if statement_id else result


def to_text(value: Any) -> str:
    """Return a JSON value as models are shown it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _value(cell: Any, kind: str) -> Any:
    """Return a cell, which comes as text whatever its type, as JSON has it; what JSON has not stays text."""
    if not isinstance(cell, str):
        return cell
    try:
        if kind in _INTEGERS and len(cell) < 30:
            return int(cell)
        if kind in ("DOUBLE", "FLOAT") and cell.strip().lower() not in ("nan", "infinity", "-infinity", "inf", "-inf"):
            number = float(cell)
            return number if math.isfinite(number) else cell
    except ValueError:
        return cell
    return cell.lower() == "true" if kind == "BOOLEAN" and cell.lower() in ("true", "false") else cell


def _object(value: Json, name: str) -> Json:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
