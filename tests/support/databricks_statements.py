"""Statement Execution of Databricks on loopback: SQL is not run, its outcome is what a test says.

    statements.on("SELECT 1", rows=[["1"]], columns=[("one", "INT")])
    statements.on("slow", polls=100)
    statements.on("broken", state="FAILED", error="TABLE_OR_VIEW_NOT_FOUND")

A statement that no test has described succeeds with one row that holds its bound parameters.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from aiohttp import web

from tests.support.databricks_http import (
    Authenticate,
    Caller,
    DatabricksEmulator,
    DatabricksError,
    Exchange,
    JsonObject,
    bearer_token,
    invalid,
    json_body,
)

API = "/api/2.0/sql/statements"
SQL_SCOPES = ("sql", "sql.statement-execution")
State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED", "CLOSED"]
_TYPES = frozenset({"STRING", "BIGINT", "INT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a statement that contains some text goes."""

    columns: tuple[tuple[str, str], ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    state: State = "SUCCEEDED"
    error: str = ""
    polls: int = 0
    """Questions that are answered with PENDING, then RUNNING."""
    chunk_rows: int = 1000
    external_links: bool = False


@dataclass(slots=True)
class Statement:
    id: str
    caller: str
    text: str
    parameters: list[JsonObject]
    outcome: Outcome
    polls_left: int
    truncated: bool = False
    cancelled: bool = False
    asked: JsonObject = field(default_factory=dict)

    @property
    def state(self) -> str:
        if self.cancelled:
            return "CANCELED"
        if self.polls_left > 0:
            return "PENDING" if self.polls_left * 2 > self.outcome.polls else "RUNNING"
        return self.outcome.state


class StatementEmulator(DatabricksEmulator):
    """The emulator; `statements` are all that were submitted."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authenticate: Authenticate | None = None,
        record: bool = True,
        control_prefix: str = "/_sql",
    ) -> None:
        super().__init__(host=host, port=port, control_prefix=control_prefix, record=record)
        self._authenticate = authenticate or (lambda headers: Caller(bearer_token(headers)))
        self._outcomes: list[tuple[str, Outcome]] = []
        self.statements: dict[str, Statement] = {}

    def on(
        self,
        text: str,
        *,
        columns: Sequence[tuple[str, str]] = (),
        rows: Sequence[Sequence[str | None]] = (),
        **changes: Any,
    ) -> None:
        """Say how statements that contain `text` go; what was said last counts."""
        outcome = Outcome(columns=tuple(columns), rows=tuple(tuple(row) for row in rows))
        self._outcomes.insert(0, (text, replace(outcome, **changes)))

    def install(self, app: web.Application) -> None:
        app.add_routes(
            [
                self.api("POST", API, self._submit),
                self.api("GET", f"{API}/{{id}}", self._get),
                self.api("GET", f"{API}/{{id}}/result/chunks/{{chunk}}", self._get_chunk),
                self.api("POST", f"{API}/{{id}}/cancel", self._cancel),
                *self.control_routes(),
            ]
        )

    def check_request(self, exchange: Exchange) -> None:
        caller = self._authenticate(exchange.headers)
        exchange.caller = caller.user_name
        if not caller.may(*SQL_SCOPES):
            raise DatabricksError(403, "PERMISSION_DENIED", "Invalid scope: the token has no scope for sql")

    def _submit(self, exchange: Exchange, _: web.Request) -> JsonObject:
        body = json_body(exchange)
        text, warehouse = body.get("statement"), body.get("warehouse_id")
        if not isinstance(text, str) or not text.strip() or not isinstance(warehouse, str) or not warehouse:
            raise invalid("statement and warehouse_id are required")
        if body.get("wait_timeout") not in (None, "0s") and not str(body["wait_timeout"]).endswith("s"):
            raise invalid("wait_timeout must be 0s or between 5s and 50s")
        if body.get("disposition", "INLINE") == "INLINE" and body.get("format", "JSON_ARRAY") != "JSON_ARRAY":
            raise invalid("format must be JSON_ARRAY for the disposition INLINE")
        parameters = body.get("parameters") or []
        _check_parameters(text, parameters)
        outcome = next((one for part, one in self._outcomes if part in text), None) or _echo(parameters)
        statement = Statement(
            id=str(uuid.uuid4()),
            caller=exchange.caller or "",
            text=text,
            parameters=parameters,
            outcome=outcome,
            polls_left=outcome.polls,
            asked=body,
        )
        limit = body.get("row_limit")
        if isinstance(limit, int) and len(outcome.rows) > limit:
            statement.outcome = replace(outcome, rows=outcome.rows[:limit])
            statement.truncated = True
        self.statements[statement.id] = statement
        if body.get("wait_timeout") == "0s":
            return {"statement_id": statement.id, "status": {"state": "PENDING"}}
        statement.polls_left = 0
        return self._answer(statement)

    def _get(self, exchange: Exchange, request: web.Request) -> JsonObject:
        statement = self._known(exchange, request)
        answer = self._answer(statement)
        statement.polls_left = max(0, statement.polls_left - 1)
        return answer

    def _get_chunk(self, exchange: Exchange, request: web.Request) -> JsonObject:
        statement = self._known(exchange, request)
        if statement.state != "SUCCEEDED":
            raise DatabricksError(404, "NOT_FOUND", "The statement has no result")
        return self._chunk(statement, int(request.match_info["chunk"]))

    def _cancel(self, exchange: Exchange, request: web.Request) -> JsonObject:
        self._known(exchange, request).cancelled = True
        return {}

    def _known(self, exchange: Exchange, request: web.Request) -> Statement:
        statement = self.statements.get(request.match_info["id"])
        if statement is None or statement.caller != exchange.caller:
            raise DatabricksError(404, "NOT_FOUND", f"The statement {request.match_info['id']} was not found.")
        return statement

    def _answer(self, statement: Statement) -> JsonObject:
        outcome, state = statement.outcome, statement.state
        answer: JsonObject = {"statement_id": statement.id, "status": {"state": state}}
        if state == "FAILED":
            answer["status"]["error"] = {"error_code": "BAD_REQUEST", "message": outcome.error}
        if state != "SUCCEEDED":
            return answer
        chunks = max(1, -(-len(outcome.rows) // outcome.chunk_rows))
        answer["manifest"] = {
            "format": "JSON_ARRAY",
            "schema": {
                "column_count": len(outcome.columns),
                "columns": [
                    {"name": name, "type_text": kind, "type_name": kind, "position": place}
                    for place, (name, kind) in enumerate(outcome.columns)
                ],
            },
            "total_chunk_count": chunks,
            "total_row_count": len(outcome.rows),
            "truncated": statement.truncated,
        }
        answer["result"] = self._chunk(statement, 0)
        return answer

    def _chunk(self, statement: Statement, number: int) -> JsonObject:
        outcome = statement.outcome
        start = number * outcome.chunk_rows
        rows = outcome.rows[start : start + outcome.chunk_rows]
        if number and not rows:
            raise DatabricksError(404, "NOT_FOUND", f"There is no chunk {number}")
        chunk: JsonObject = {"chunk_index": number, "row_offset": start, "row_count": len(rows)}
        if outcome.external_links:
            link = {"chunk_index": number, "external_link": "https://storage.example.com/secret?sig=x", "row_count": 1}
            return {**chunk, "external_links": [link]}
        chunk["data_array"] = [list(row) for row in rows]
        if start + outcome.chunk_rows < len(outcome.rows):
            chunk["next_chunk_index"] = number + 1
            chunk["next_chunk_internal_link"] = f"{API}/{statement.id}/result/chunks/{number + 1}?row_offset={start}"
        return chunk


def _check_parameters(text: str, parameters: object) -> None:
    if not isinstance(parameters, list):
        raise invalid("parameters must be a list")
    for parameter in parameters:
        name, kind = parameter.get("name"), parameter.get("type", "STRING")
        if not isinstance(name, str) or f":{name}" not in text:
            raise invalid(f"the parameter {name} is not used")
        if kind not in _TYPES and not kind.startswith("DECIMAL"):
            raise invalid(f"unsupported parameter type {kind}")
        if not isinstance(parameter.get("value"), str | None):
            raise invalid(f"the value of parameter {name} must be a string")


def _echo(parameters: list[JsonObject]) -> Outcome:
    return Outcome(
        columns=tuple((parameter["name"], parameter.get("type", "STRING")) for parameter in parameters),
        rows=(tuple(parameter.get("value") for parameter in parameters),),
    )
