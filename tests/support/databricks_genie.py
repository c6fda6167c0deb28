"""Genie of Databricks on loopback: a space answers what a test says, after as many questions as it says."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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

API = "/api/2.0/genie/spaces"
GENIE_SCOPES = ("genie", "dashboards.genie")
_PASSING = ("FETCHING_METADATA", "ASKING_AI", "PENDING_WAREHOUSE", "EXECUTING_QUERY")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a space answers to a question that contains some text."""

    text: str = ""
    sql: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    polls: int = 0
    status: str = "COMPLETED"
    error: str = ""


@dataclass(slots=True)
class Message:
    id: str
    conversation: str
    content: str
    answer: Answer
    polls_left: int
    attachment: str


class GenieEmulator(DatabricksEmulator):
    """The emulator; `messages` are all that were asked, by conversation."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authenticate: Authenticate | None = None,
        record: bool = True,
        control_prefix: str = "/_genie",
    ) -> None:
        super().__init__(host=host, port=port, control_prefix=control_prefix, record=record)
        self._authenticate = authenticate or (lambda headers: Caller(bearer_token(headers)))
        self._spaces: set[str] = set()
        self._answers: list[tuple[str, Answer]] = []
        self.messages: dict[str, list[Message]] = {}

    def add_space(self, space: str) -> None:
        self._spaces.add(space)

    def on(
        self,
        part: str,
        *,
        columns: Sequence[tuple[str, str]] = (),
        rows: Sequence[Sequence[str | None]] = (),
        **changes: Any,
    ) -> None:
        """Say what is answered to questions that contain `part`; what was said last counts."""
        answer = Answer(columns=tuple(columns), rows=tuple(tuple(row) for row in rows))
        self._answers.insert(0, (part, replace(answer, **changes)))

    def install(self, app: web.Application) -> None:
        message = f"{API}/{{space}}/conversations/{{conversation}}/messages/{{message}}"
        app.add_routes(
            [
                self.api("POST", f"{API}/{{space}}/start-conversation", self._start),
                self.api("POST", f"{API}/{{space}}/conversations/{{conversation}}/messages", self._continue),
                self.api("GET", message, self._get),
                self.api("GET", f"{message}/attachments/{{attachment}}/query-result", self._result),
                *self.control_routes(),
            ]
        )

    def check_request(self, exchange: Exchange) -> None:
        caller = self._authenticate(exchange.headers)
        exchange.caller = caller.user_name
        if not caller.may(*GENIE_SCOPES):
            raise DatabricksError(403, "PERMISSION_DENIED", "Invalid scope: the token has no scope for genie")

    def _start(self, exchange: Exchange, request: web.Request) -> JsonObject:
        space = self._space(request)
        message = self._ask(uuid.uuid4().hex, exchange)
        conversation = {
            "id": message.conversation,
            "conversation_id": message.conversation,
            "space_id": space,
            "title": message.content,
            "user_id": 1,
        }
        return {
            "conversation_id": message.conversation,
            "message_id": message.id,
            "conversation": conversation,
            "message": _described(message, space),
        }

    def _continue(self, exchange: Exchange, request: web.Request) -> JsonObject:
        conversation = request.match_info["conversation"]
        if conversation not in self.messages:
            raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", f"Conversation {conversation} does not exist.")
        return _described(self._ask(conversation, exchange), self._space(request))

    def _ask(self, conversation: str, exchange: Exchange) -> Message:
        content = json_body(exchange).get("content")
        if not isinstance(content, str) or not content:
            raise invalid("content is required")
        answer = next((one for part, one in self._answers if part in content), Answer(text=f"You asked: {content}"))
        message = Message(uuid.uuid4().hex, conversation, content, answer, answer.polls, uuid.uuid4().hex)
        self.messages.setdefault(conversation, []).append(message)
        return message

    def _get(self, _: Exchange, request: web.Request) -> JsonObject:
        message = self._message(request)
        described = _described(message, self._space(request))
        message.polls_left = max(0, message.polls_left - 1)
        return described

    def _result(self, _: Exchange, request: web.Request) -> JsonObject:
        message = self._message(request)
        if message.attachment != request.match_info["attachment"] or not message.answer.sql:
            raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", "The attachment does not exist.")
        answer = message.answer
        columns = [{"name": name, "type_text": kind, "type_name": kind} for name, kind in answer.columns]
        return {
            "statement_response": {
                "statement_id": str(uuid.uuid4()),
                "status": {"state": "SUCCEEDED"},
                "manifest": {
                    "format": "JSON_ARRAY",
                    "schema": {"column_count": len(columns), "columns": columns},
                    "total_row_count": len(answer.rows),
                },
                "result": {"row_count": len(answer.rows), "data_array": [list(row) for row in answer.rows]},
            }
        }

    def _space(self, request: web.Request) -> str:
        space = request.match_info["space"]
        if space not in self._spaces:
            raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", f"Node with resource name {space} does not exist.")
        return space

    def _message(self, request: web.Request) -> Message:
        for message in self.messages.get(request.match_info["conversation"], []):
            if message.id == request.match_info["message"]:
                return message
        raise DatabricksError(404, "RESOURCE_DOES_NOT_EXIST", "The message does not exist.")


def _described(message: Message, space: str) -> JsonObject:
    answer = message.answer
    described: JsonObject = {
        "id": message.id,
        "message_id": message.id,
        "space_id": space,
        "conversation_id": message.conversation,
        "content": message.content,
        "status": answer.status if message.polls_left <= 0 else _PASSING[message.polls_left % len(_PASSING)],
    }
    if message.polls_left > 0:
        return described
    if answer.error:
        described["error"] = {"error": answer.error, "type": "GENERIC_CHAT_COMPLETION_EXCEPTION"}
    attachments: list[JsonObject] = []
    if answer.sql:
        query = {"query": answer.sql, "description": "how it was counted", "title": "Numbers"}
        attachments.append({"attachment_id": message.attachment, "query": query})
    if answer.text:
        attachments.append({"attachment_id": uuid.uuid4().hex, "text": {"content": answer.text}})
    if answer.status == "COMPLETED":
        described["attachments"] = attachments
    return described
