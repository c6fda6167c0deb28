"""Questions of servers to people: what may be asked, and how it is answered."""

from collections.abc import Mapping
from typing import Any

from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.adapters.forms import BadQuestion, form_of, shown_url
from services.orchestrator.tool_gateway.adapters.mcp.faults import INVALID_PARAMS, RpcError
from services.orchestrator.tool_gateway.ports import SourceAnswer, SourceQuestion

MAX_TEXT_BYTES = 4096


def question_of(params: Mapping[str, Any]) -> SourceQuestion:
    """Return the question in the parameters of `elicitation/create`.

    Raises:
        AsksForSecret: a field looks like a password.
        RpcError: it is not one that can be shown.
    """
    message = params.get("message")
    text = shown(message, MAX_TEXT_BYTES) if isinstance(message, str) else ""
    mode = params.get("mode", "form")
    try:
        if mode == "url":
            return SourceQuestion(text, url=shown_url(params.get("url")))
        if mode == "form":
            return SourceQuestion(text, schema=form_of(params.get("requestedSchema")))
    except BadQuestion as error:
        raise RpcError(INVALID_PARAMS, str(error)) from None
    raise RpcError(INVALID_PARAMS, "elicitation is offered in the modes form and url")


def result_of(answer: SourceAnswer, *, with_content: bool = True) -> dict[str, Any]:
    """Return an answer as servers take it; that to a form has content when it was accepted."""
    if answer.action == "accept":
        return {"action": "accept"} | ({"content": dict(answer.content)} if with_content else {})
    return {"action": "decline" if answer.action == "decline" else "cancel"}
