"""The provider's messages from and to what the gateway knows."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from coxswain.tools.v1 import tool_provider_pb2 as pb
from services.common.egress import is_public_https
from services.common.storable import storable
from services.orchestrator.domain.tool_source import ListedTool, ShareField, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.foreign import (
    MAX_SCHEMA_BYTES,
    ForeignTextError,
    parse_json,
    parse_object,
    shown,
    stored_file,
)
from services.orchestrator.tool_gateway.adapters.forms import BadQuestion, form_of, shown_url
from services.orchestrator.tool_gateway.ports import (
    CallRefused,
    SourceAnswer,
    SourceQuestion,
    ToolCallRequest,
    ToolResult,
)

MAX_ARGUMENT_BYTES = 1024 * 1024
MAX_DESCRIPTION_BYTES = MAX_QUESTION_BYTES = 4096
MAX_QUESTIONS = 16
MAX_STATE_BYTES = 64 * 1024
_MAX_TITLE_BYTES = 256
_MAX_NAME = 128
_ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
_ACTIONS = {
    "accept": pb.INPUT_ACTION_ACCEPT,
    "decline": pb.INPUT_ACTION_DECLINE,
    "cancel": pb.INPUT_ACTION_CANCEL,
}


def listed_tool(tool: pb.ProvidedTool) -> ListedTool:
    """Return a tool as it is listed.

    Raises:
        ForeignTextError: its name or a schema cannot be used.
    """
    if not _is_name(tool.name, _MAX_NAME) or "/" in tool.name:
        raise ForeignTextError(
            f"the name of a tool has to be 1 to {_MAX_NAME} visible ASCII characters without a slash, "
            f"and one is {shown(tool.name, 80)!r}"
        )
    description = shown(tool.description, MAX_DESCRIPTION_BYTES)
    return ListedTool(
        name=tool.name,
        title=shown(tool.title, _MAX_TITLE_BYTES),
        description=description,
        arguments_schema=_schema(tool.input_schema_json, f"the input schema of {tool.name}") or dict(_ANY_ARGUMENTS),
        output_schema=_schema(tool.output_schema_json, f"the output schema of {tool.name}"),
        idempotent_hint=tool.idempotent if tool.HasField("idempotent") else None,
        warnings=() if description == tool.description else (_description_warning(tool.description),),
    )


def _description_warning(description: str) -> str:
    if len(description.encode()) > MAX_DESCRIPTION_BYTES:
        return f"the description was cut after {MAX_DESCRIPTION_BYTES} bytes"
    return "hidden characters of the description were removed"


def _schema(text: str, what: str) -> dict[str, Any] | None:
    return parse_object(text, what, max_bytes=MAX_SCHEMA_BYTES) if text else None


def call_message(request: ToolCallRequest) -> pb.CallToolRequest:
    """Return the first delivery of a call.

    Raises:
        CallRefused: no JSON text holds the arguments, or it is too large.
    """
    assert request.source is not None
    try:
        arguments = _json_text(request.arguments)
    except (ValueError, RecursionError):
        raise CallRefused("the arguments cannot be written as JSON", reason="TOOL_ARGUMENTS") from None
    if len(arguments.encode()) > MAX_ARGUMENT_BYTES:
        raise CallRefused(f"the arguments are larger than {MAX_ARGUMENT_BYTES} bytes", reason="TOOL_ARGUMENTS")
    return pb.CallToolRequest(
        call_id=request.call_id,
        tool=request.tool,
        arguments_json=arguments,
        tool_hash=request.tool_hash,
        caller=_caller(request, request.source),
    )


def _caller(request: ToolCallRequest, source: ToolSourceSpec) -> pb.Caller | None:
    if not source.share:
        return None
    shared = set(source.share)
    return pb.Caller(
        group=request.principal.group_id if ShareField.GROUP in shared else "",
        subject=request.principal.subject if ShareField.SUBJECT in shared else "",
        execution=request.execution_id if ShareField.EXECUTION in shared else "",
        labels=request.labels if ShareField.LABELS in shared else {},
    )


def get_call_message(call_id: str, sent_at: datetime | None) -> pb.GetCallRequest:
    """Return the question what became of a call."""
    message = pb.GetCallRequest(call_id=call_id)
    if sent_at is not None:
        message.sent_time.FromDatetime(sent_at)
    return message


def tool_result(result: pb.CallResult, hide: Callable[[str], str]) -> ToolResult:
    """Return what a tool returned, passed through `hide`.

    JSON that cannot be read is left as text: the call is over, whatever it returned.
    """
    text, structured = storable(hide(result.text)), None
    if result.structured_json:
        document = hide(result.structured_json)
        try:
            structured = parse_json(document, "the structured result")
        except ForeignTextError:
            text = text or storable(document)
    return ToolResult(
        text=text,
        structured=structured,
        is_error=result.is_error,
        files=tuple(stored_file(file.name, file.media_type, file.content) for file in result.files),
    )


def check_input(required: pb.InputRequired) -> None:
    """Refuse what cannot be asked.

    Raises:
        ForeignTextError: it has no question, too many of them, two of one id, or a state that is too large.
    """
    ids = [question.id for question in required.questions]
    if not 1 <= len(ids) <= MAX_QUESTIONS or len(set(ids)) < len(ids) or not all(_is_name(one, 64) for one in ids):
        raise ForeignTextError(f"a call asks 1 to {MAX_QUESTIONS} questions, each with an id of its own")
    if len(required.state) > MAX_STATE_BYTES:
        raise ForeignTextError(f"the state of a call is larger than {MAX_STATE_BYTES} bytes")


def source_question(question: pb.InputQuestion, hide: Callable[[str], str]) -> SourceQuestion:
    """Return a question as people see it, its text passed through `hide`.

    Raises:
        ForeignTextError, BadQuestion: it cannot be shown.
        AsksForSecret: a field looks like a password.
    """
    text = shown(hide(question.text), MAX_QUESTION_BYTES)
    if question.url:
        if question.schema_json or not is_public_https(question.url):
            raise BadQuestion("a question leads to a public address over https, and then has no schema")
        return SourceQuestion(text=text, url=shown_url(question.url))
    schema = parse_object(question.schema_json, "the schema of a question", max_bytes=MAX_SCHEMA_BYTES)
    return SourceQuestion(text=text, schema=form_of(schema))


def input_answer(answer: SourceAnswer) -> pb.InputAnswer:
    """Return a person's answer as the provider gets it."""
    accepted = answer.action == "accept"
    return pb.InputAnswer(
        action=_ACTIONS[answer.action],
        content_json=_json_text(answer.content) if accepted and answer.content else "",
    )


def _json_text(document: Mapping[str, Any]) -> str:
    text = json.dumps(dict(document), ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair can be escaped, and not be sent as it is.
    return text if text.isascii() or storable(text) == text else json.dumps(dict(document))


def _is_name(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and all("!" <= character <= "~" for character in text)
