"""Searches an index of Databricks Vector Search."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from services.orchestrator.tool_gateway.builtin.databricks.statements import to_text
from services.orchestrator.tool_gateway.builtin.databricks.workspace import Declined, Json, Workspace, Workspaces
from services.orchestrator.tool_gateway.http_bodies import BadBody
from services.orchestrator.tool_gateway.ports import CallProgress, OutcomeUnknown, ToolCallRequest, ToolResult

API = "/api/2.0/vector-search/indexes"
MAX_RESULTS = 200
DEFAULT_RESULTS = 5
_DEFAULT_TYPE = "HYBRID"
_GROUP = "group_id"
_OF_MEMORY = frozenset({_GROUP, "embedding_model", "id"})
"""Columns by which an index is known that memories are kept in, of several groups perhaps."""
_NO_GROUPS = re.compile(
    r"HTTP 400 (?:[A-Z_]{1,64}: )?"
    rf"(?:Requested columns to fetch are not present in index: \W?{_GROUP}\W{{0,2}}"
    rf"|Column \W?{_GROUP}\W? (?:is not in|does not exist|was not found)(?!.*{_GROUP}).*)"
)
"""How a workspace declines a query for this column alone where the index has no such column."""
_KEY = re.compile(r"(?P<column>[A-Za-z_][A-Za-z0-9_.]{0,254})(?: (?P<operator>NOT|LIKE|<|<=|>|>=))?")
_UNSAFE = re.compile(r"['\"\\\x00-\x1f]")


class _BadFilter(ValueError):
    """A filter cannot be written for the index; the text says why."""


class DatabricksVectorSearch:
    """`databricks_vector_search`."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Return the rows of the index that are nearest to a text; see `ToolAdapter`."""
        workspace = await self._workspaces.open(request)
        path = f"{API}/{quote(str(request.config['index']), safe='')}"
        try:
            index = await workspace.ask(path, progress, check=_check_description)
            memories = await _holds_memories(workspace, path, index, request)
            body = query_body(request, memories=memories)
            answer = await workspace.begin(f"{path}/query", body, progress)
            return _result(answer, request.config["columns"], request.principal.group_id if memories else None)
        except (Declined, _BadFilter) as error:
            return ToolResult(str(error), is_error=True)
        except BadBody as error:
            raise OutcomeUnknown(f"{workspace.origin} answered the search, but {error}") from error

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:  # noqa: ARG002
        """Search again, which changes nothing; see `ToolAdapter`."""
        return await self.call(request, progress)


async def _holds_memories(workspace: Workspace, path: str, index: Json, request: ToolCallRequest) -> bool:
    """Return whether an index is one of memories, of several groups perhaps.

    One that follows a table does not describe its columns: it is asked for the groups, with nothing of the caller's.
    """
    if _either(index, "index_type") != "DELTA_SYNC":
        return holds_memories(index)
    kind = request.config.get("query_type") or _DEFAULT_TYPE
    probe: Json = {"columns": [_GROUP], "query_text": "a", "query_type": kind, "num_results": 1}
    try:
        await workspace.ask(f"{path}/query", body=probe)
    except Declined as error:
        # What is declined for anything else, or in other words, may have groups.
        return _NO_GROUPS.fullmatch(str(error)) is None
    return True


def _check_description(index: Json) -> None:
    """Refuse what is no description: which rows may be shown depends on it.

    Raises:
        BadBody: it has no name, or no type that is known.
    """
    if not isinstance(index.get("name"), str) or _either(index, "index_type") not in ("DIRECT_ACCESS", "DELTA_SYNC"):
        raise BadBody("its answer describes no index")


def query_body(request: ToolCallRequest, *, memories: bool) -> Json:
    """Return the query of a call; of `memories` only those of the caller's group.

    Raises:
        _BadFilter: its filters cannot be written.
    """
    config, arguments = request.config, request.arguments
    filters = {**(arguments.get("filters") or {}), **(config.get("filters") or {})}
    columns = list(config["columns"])
    if memories:
        # An index may be shared: what other groups keep there is not this one's to find.
        filters[_GROUP] = request.principal.group_id
        columns = list(dict.fromkeys([*columns, _GROUP]))
    body: Json = {
        "columns": columns,
        "query_text": str(arguments["query"]),
        "query_type": config.get("query_type") or _DEFAULT_TYPE,
        "num_results": min(
            int(arguments.get("num_results") or config.get("num_results") or DEFAULT_RESULTS), MAX_RESULTS
        ),
    }
    if config.get("score_threshold") is not None:
        body["score_threshold"] = config["score_threshold"]
    if config.get("rerank_columns"):
        body["reranker"] = {
            "model": "databricks_reranker",
            "parameters": {"columns_to_rerank": list(config["rerank_columns"])},
        }
    if filters and config.get("storage_optimized"):
        body["filter_string"] = " AND ".join(_conditions(filters))
    elif filters:
        for key in filters:
            _parsed(key)
        body["filters_json"] = json.dumps(filters)
    return body


def holds_memories(index: Json) -> bool:
    """Return whether an index is one that the memory service keeps memories in."""
    spec = _either(index, "direct_access_index_spec")
    schema = _either(spec, "schema_json") if isinstance(spec, dict) else None
    try:
        columns = json.loads(schema) if isinstance(schema, str) else {}
    except (ValueError, RecursionError):
        columns = {}
    # What cannot be read may hold anything.
    return isinstance(spec, dict) and (not columns or set(columns) >= _OF_MEMORY)


def _conditions(filters: Mapping[str, Any]) -> Iterator[str]:
    """Yield filters as conditions of a storage-optimized endpoint."""
    for key, value in filters.items():
        column, operator = _parsed(key)
        if isinstance(value, list):
            if operator not in ("", "NOT") or not value:
                raise _BadFilter(f"{key} needs a single value, or at least one")
            values = ", ".join(_literal(key, item) for item in value)
            yield f"{column} {'NOT IN' if operator else 'IN'} ({values})"
        elif operator == "NOT":
            yield f"{column} != {_literal(key, value)}"
        else:
            yield f"{column} {operator or '='} {_literal(key, value)}"


def _parsed(key: str) -> tuple[str, str]:
    found = _KEY.fullmatch(key)
    if found is None:
        raise _BadFilter(
            f"{key[:64]} is no filter: write a column, or a column, a blank and one of NOT, LIKE, <, <=, >, >="
        )
    return found["column"], found["operator"] or ""


def _literal(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, str) and not _UNSAFE.search(value):
        return f"'{value}'"
    raise _BadFilter(f"the value of {key} has to be a number, a boolean, or a text without quotes and backslashes")


def _result(answer: Json, columns: Sequence[str], owner: str | None) -> ToolResult:
    """Return the rows of an answer; with an owner, only those whose group it is.

    Raises:
        BadBody: it has no columns, or rows that do not fit them.
    """
    described, result = _either(_either(answer, "manifest"), "columns"), _either(answer, "result")
    columns_of = described if isinstance(described, list) else []
    names = [column.get("name") if isinstance(column, dict) else None for column in columns_of]
    if not names or not all(isinstance(name, str) for name in names) or not isinstance(result, dict):
        raise BadBody("its answer has no columns or no result")
    data = _either(result, "data_array") or []
    if not isinstance(data, list) or not all(isinstance(row, list) for row in data):
        raise BadBody("its rows are no rows")
    # The score is one extra value at the end, which not every front end names.
    if any(len(row) not in (len(names), len(names) + 1) for row in data):
        raise BadBody("its rows do not fit their columns")
    counted = _either(result, "row_count")
    if isinstance(counted, int) and counted > len(data) and not _either(answer, "next_page_token"):
        raise BadBody("it counts more rows than it has")
    rows = [dict(zip(names if "score" in names else [*names, "score"], row, strict=False)) for row in data]
    if owner is not None:
        rows = [row for row in rows if row.get(_GROUP) == owner]
        if _GROUP not in columns:
            rows = [{name: cell for name, cell in row.items() if name != _GROUP} for row in rows]
    found = {"results": rows, "count": len(rows)}
    return ToolResult(to_text(found), structured=found)


def _either(value: Any, name: str) -> Any:
    """Return a member by its name, which some front ends write in camel case."""
    if not isinstance(value, dict):
        return None
    first, *others = name.split("_")
    return value.get(name, value.get("".join([first, *(word.capitalize() for word in others)])))
