"""Asks a Genie space of Databricks."""

import json
from typing import Any
from urllib.parse import quote

from services.orchestrator.tool_gateway.builtin.databricks.statements import table, to_text
from services.orchestrator.tool_gateway.builtin.databricks.workspace import (
    Declined,
    Json,
    Workspace,
    Workspaces,
    is_id,
    text_of,
)
from services.orchestrator.tool_gateway.http_bodies import BadBody
from services.orchestrator.tool_gateway.ports import CallProgress, OutcomeUnknown, ToolCallRequest, ToolResult

API = "/api/2.0/genie/spaces"
DEFAULT_ROWS = 100
_LAST_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "QUERY_RESULT_EXPIRED"})
_MAX_ATTACHMENTS = 10


class DatabricksGenie:
    """`databricks_genie`."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Ask a question and return the answer with its SQL and rows; see `ToolAdapter`."""
        space = f"{API}/{_segment(request.config['space_id'])}"
        conversation = request.arguments.get("conversation_id") or ""
        path = (
            f"{space}/conversations/{_segment(conversation)}/messages"
            if conversation
            else f"{space}/start-conversation"
        )
        workspace = await self._workspaces.open(request)
        try:
            answer = await workspace.begin(path, {"content": str(request.arguments["question"])}, progress)
        except Declined as error:
            return ToolResult(str(error), is_error=True)
        conversation = answer.get("conversation_id") or conversation
        message = answer.get("message_id") or answer.get("id")
        if not is_id(conversation) or not is_id(message):
            raise OutcomeUnknown("the workspace took the question, but gave no id of it")
        await progress.handle(json.dumps([conversation, message]))
        return await _follow(workspace, request, conversation, message, progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """Wait for the answer to a question that was asked before; see `ToolAdapter`."""
        if not handle:
            raise OutcomeUnknown("the question may have been asked, but its id was not received")
        conversation, message = json.loads(handle)
        return await _follow(await self._workspaces.open(request), request, conversation, message, progress)


async def _follow(
    workspace: Workspace, request: ToolCallRequest, conversation: str, message: str, progress: CallProgress
) -> ToolResult:
    space = f"{API}/{_segment(request.config['space_id'])}"
    path = f"{space}/conversations/{_segment(conversation)}/messages/{_segment(message)}"

    async def cancel() -> None:
        """Leave the question: the API has no way to take it back."""

    try:
        answer = await workspace.watch(path, progress, _state, cancel, _check_answer)
        result: Json = {"conversation_id": conversation, "answer": "", "queries": []}
        given = answer.get("attachments")
        attachments = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        for attachment in attachments[:_MAX_ATTACHMENTS]:
            await _add(workspace, path, attachment, result, request, progress)
    except Declined as error:
        raise OutcomeUnknown(f"the workspace does not say what became of the question: {error}", final=True) from error
    state = _state(answer)[0]
    if state in ("FAILED", "CANCELLED"):
        failure = answer.get("error")
        why = str(failure.get("error") or failure.get("type") or "")[:4096] if isinstance(failure, dict) else ""
        return ToolResult(f"Genie ended as {state}" + (f": {why}" if why else ""), is_error=True)
    if state == "COMPLETED" and not (result["answer"] or result["queries"] or result.get("suggested_questions")):
        return ToolResult("Genie gave no answer", is_error=True)
    return ToolResult(to_text(result), structured=result)


async def _add(
    workspace: Workspace, path: str, attachment: Json, result: Json, request: ToolCallRequest, progress: CallProgress
) -> None:
    """Add what an attachment holds: a part of the answer, a query with its rows, or questions to go on with."""
    text, query, more = (attachment.get(name) for name in ("text", "query", "suggested_questions"))
    if isinstance(text, dict) and text.get("content"):
        result["answer"] = "\n\n".join(filter(None, (result["answer"], str(text["content"]))))
    if isinstance(more, dict) and isinstance(more.get("questions"), list):
        result["suggested_questions"] = [str(question) for question in more["questions"][:10]]
    if not isinstance(query, dict):
        return
    found: Json = {
        "title": str(query.get("title") or ""),
        "description": str(query.get("description") or ""),
        "sql": str(query.get("query") or ""),
    }
    attachment_id = attachment.get("attachment_id")
    if isinstance(attachment_id, str) and attachment_id:
        found |= await _rows(workspace, f"{path}/attachments/{_segment(attachment_id)}/query-result", request, progress)
    result["queries"].append(found)


async def _rows(workspace: Workspace, path: str, request: ToolCallRequest, progress: CallProgress) -> Json:
    try:
        answer = await workspace.ask(path, progress)
    except Declined as error:
        return {"rows_missing": str(error)}
    response = answer.get("statement_response")
    response = response if isinstance(response, dict) else {}
    manifest, data = response.get("manifest"), response.get("result")
    rows: Any = data.get("data_array") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        return {"rows_missing": "the workspace returned no rows in its answer"}
    limit = int(request.config.get("row_limit") or DEFAULT_ROWS)
    if not all(isinstance(row, list) for row in rows):
        return {"rows_missing": "the workspace returned rows that cannot be read"}
    kept = rows[:limit]
    found = table(manifest if isinstance(manifest, dict) else {}, kept)
    return {**found, "truncated": found["truncated"] or len(kept) < len(rows)}


def _check_answer(message: Json) -> None:
    """Refuse an answer that is complete and holds nothing.

    Raises:
        BadBody: it has no attachments.
    """
    if _state(message)[0] == "COMPLETED" and not isinstance(message.get("attachments"), list):
        raise BadBody("its answer has no attachments")


def _state(message: Json) -> tuple[str, bool]:
    state = text_of(message.get("status"))
    return state, state in _LAST_STATES


def _segment(value: Any) -> str:
    return quote(str(value), safe="").replace(".", "%2E")
