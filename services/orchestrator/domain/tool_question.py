"""What people are asked about calls of tools, and what their answers mean. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.orchestrator.domain.question import Answer, Question, QuestionState

OUTCOME_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "happened": {"type": "boolean", "description": "Whether the call has taken effect. false: it is made again."},
        "result": {"description": "What the tool returned: a text, or any JSON value; where it happened."},
    },
    "required": ["happened"],
    "additionalProperties": False,
    "if": {"properties": {"happened": {"const": True}}},
    "then": {"required": ["result"]},
}
"""Of the content that accepts an OUTCOME_UNKNOWN."""


class Decision(StrEnum):
    """What becomes of a call that a person was asked about."""

    CALL = "call"
    CALL_EDITED = "call_edited"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Approval:
    """The answer to a TOOL_APPROVAL."""

    decision: Decision
    arguments: str = ""
    """JSON text; for CALL_EDITED."""
    feedback: str = ""
    remember: bool = False
    """Whether later calls of the tool in the same execution are approved as well."""


def approval_schema(arguments_schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the content that accepts a TOOL_APPROVAL of a tool with such arguments."""
    # What refers to other parts of its document means nothing within another one; the host checks it when it calls.
    arguments = {"type": "object"} if "$ref" in json.dumps(arguments_schema) else dict(arguments_schema)
    return {
        "type": "object",
        "properties": {
            "decision": {"enum": [decision.value for decision in Decision]},
            "arguments": arguments,
            "feedback": {"type": "string", "maxLength": 65536, "description": "What the model is told."},
            "remember": {
                "type": "boolean",
                "description": "Whether to approve later calls in this execution as well; for `call`.",
            },
        },
        "required": ["decision"],
        "additionalProperties": False,
        "if": {"properties": {"decision": {"const": Decision.CALL_EDITED}}},
        "then": {"required": ["arguments"]},
    }


def approval_of(question: Question) -> Approval | None:
    """Return what was answered to a TOOL_APPROVAL; None while it is open."""
    match question.answer:
        case Answer(state=QuestionState.ACCEPTED, content=dict(content)):
            edited = content.get("arguments")
            return Approval(
                Decision(content["decision"]),
                "" if edited is None else json.dumps(edited, ensure_ascii=False),
                content.get("feedback", ""),
                bool(content.get("remember")),
            )
        case Answer(state=QuestionState.ACCEPTED):
            return Approval(Decision.CALL)
        case Answer(state=QuestionState.DECLINED, reason=reason):
            return Approval(Decision.REFUSE, feedback=reason)
        case _:
            return None


def found_result(answer: Answer) -> str | None:
    """Return the result that a person has found out of a call of unknown outcome; None: it had no effect."""
    content = answer.content if isinstance(answer.content, dict) else {}
    if not content.get("happened"):
        return None
    result = content.get("result", "")
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
