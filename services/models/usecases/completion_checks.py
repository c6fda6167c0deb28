"""What is wrong with a completion before any model is asked."""

import json

from services.common.errors import FailedPrecondition, InvalidArgument
from services.models.domain.conversation import Completion, MessageRole
from services.models.domain.model import Model


def check_completion(model: Model, completion: Completion) -> None:
    """Check that the conversation makes sense, and that the model can do what it asks for.

    Raises:
        InvalidArgument: the conversation is not valid.
        FailedPrecondition: the model lacks a capability.
    """
    _check_conversation(completion)
    can = model.spec.capabilities
    if not can.chat:
        raise lacking_capability(model, "chat", "answer conversations")
    uses_tools = completion.tools or any(
        message.tool_calls or message.role is MessageRole.TOOL for message in completion.messages
    )
    if uses_tools and not can.tools:
        raise lacking_capability(model, "tools", "call tools")
    if completion.response_format is not None and not can.json_schema:
        raise lacking_capability(model, "json_schema", "follow a JSON schema")


def lacking_capability(model: Model, capability: str, what: str) -> FailedPrecondition:
    """Return the failure of a call for which the model lacks a capability."""
    return FailedPrecondition(
        f'the model "{model.name}" cannot {what}; choose one whose capabilities include {capability} (see ListModels)',
        reason="MODEL_LACKS_CAPABILITY",
        metadata={"model": model.name, "capability": capability},
    )


def _check_conversation(completion: Completion) -> None:
    names = [tool.name for tool in completion.tools]
    if len(set(names)) != len(names):
        raise InvalidArgument.field("completion.tools", "must not have two tools of the same name")
    choices = ("", "auto", "none", *names, *(["required"] if names else []))
    if completion.tool_choice not in choices:
        raise InvalidArgument.field(
            "completion.tool_choice", 'must be "auto", "none", "required" or the name of one of the tools'
        )
    for index, message in enumerate(completion.messages):
        path = f"completion.messages[{index}]"
        if message.role is MessageRole.TOOL and not message.tool_call_id:
            raise InvalidArgument.field(
                f"{path}.tool_call_id",
                "has to be set in a message of a tool: the id of the call that it is the result of",
            )
        for number, call in enumerate(message.tool_calls):
            if call.provider_state and not _is_object(call.provider_state):
                raise InvalidArgument.field(
                    f"{path}.tool_calls[{number}].provider_state",
                    "hand back what the tool call of the answer held, unchanged, or leave it empty",
                )
        if message.tool_calls and message.role is not MessageRole.ASSISTANT:
            raise InvalidArgument.field(f"{path}.tool_calls", "must be empty unless the role is ASSISTANT")
        if not message.content and not message.tool_calls and message.role is not MessageRole.TOOL:
            raise InvalidArgument.field(
                f"{path}.content", "must not be empty: a message without tool calls needs content"
            )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
