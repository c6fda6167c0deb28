"""Conversations on their way to the models service, with what CrewAI cannot keep of a model's tool calls."""

import json
import re
from collections.abc import Sequence
from typing import Any

from crewai.llms.cache import CACHE_BREAKPOINT_KEY

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.model_pb2 import Model
from services.common.storable import storable
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.content import UnfitContent, content_parts, text_of

_MAX_CACHE_MARKS = 4
_NO_OBJECT = "no JSON object"
_UNKNOWN_TOOL = "Tool not found"
"""What CrewAI answers to the call of a tool it does not have."""
_WRONG_ARGUMENTS = re.compile(r"(?:Error executing tool: )?Tool '[^'\n]*' arguments validation failed: ")
"""What CrewAI says, before pydantic's own report, to the call of a tool whose arguments are not of its kinds."""
_WORTH_NAMING = 0.5
"""Share of a conversation's characters that one message has to have."""
_ROLES = {
    "system": pb.MESSAGE_ROLE_SYSTEM,
    "developer": pb.MESSAGE_ROLE_SYSTEM,
    "user": pb.MESSAGE_ROLE_USER,
    "assistant": pb.MESSAGE_ROLE_ASSISTANT,
    "tool": pb.MESSAGE_ROLE_TOOL,
    "function": pb.MESSAGE_ROLE_TOOL,
}


class Conversation:
    """What one model was asked and has answered. CrewAI hands back a tool call's id, name and arguments alone."""

    def __init__(self, attempt: TaskAttempt, model: Model) -> None:
        self._attempt = attempt
        self._model = model
        # All by the ids of tool calls: what providers want back, the thinking that led to them, and arguments that
        # CrewAI could not hold.
        self._provider_states: dict[str, str] = {}
        self._thinking: dict[str, list[pb.Thinking]] = {}
        self._odd_arguments: dict[str, str] = {}

    # CrewAI copies models.
    def __deepcopy__(self, _memo: dict[int, Any]) -> "Conversation":
        return self

    def tool_calls(self, answer: pb.CompleteResponse) -> list[dict[str, Any]]:
        """Return the tool calls of an answer as CrewAI takes them."""
        thinking = list(answer.thinking)
        for call in answer.tool_calls:
            if call.provider_state:
                self._provider_states[call.id] = call.provider_state
            if thinking:
                self._thinking[call.id] = thinking
        return [self._openai_tool_call(call) for call in answer.tool_calls]

    def messages(self, messages: Sequence[Any], tools: Sequence[dict[str, Any]]) -> list[pb.Message]:
        """Return CrewAI's messages as the models service takes them; `tools` are those that are offered with them.

        Raises:
            UnfitContent: a message holds what the model cannot take.
        """
        handed_back: list[list[pb.Thinking]] = []
        offered = [tool["function"]["name"] for tool in tools]
        return [self._message(self._mended(message, offered), handed_back) for message in messages]

    def _openai_tool_call(self, call: pb.ToolCall) -> dict[str, Any]:
        arguments = call.arguments_json
        if _is_json_but_no_object(arguments):
            self._odd_arguments[call.id] = arguments
            arguments = _NO_OBJECT
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}

    def _mended(self, message: Any, offered: Sequence[str]) -> Any:
        """Return a message with what the model needs to know of a tool call that could not be made."""
        if message["role"] == "tool" and message.get("tool_call_id") in self._odd_arguments:
            content = 'the arguments must be a JSON object that names each argument, such as {"name": "value"}'
            return {**message, "content": content}
        if message["role"] == "tool" and message.get("content") == _UNKNOWN_TOOL:
            named = f'there is no tool "{message["name"]}"' if message.get("name") else "there is no such tool"
            known = f"the tools are: {', '.join(offered)}" if offered else "no tool can be called any more"
            return {**message, "content": f"{named}; {known}"}
        content = message.get("content")
        if message["role"] == "tool" and isinstance(content, str) and _WRONG_ARGUMENTS.match(content):
            return {**message, "content": _without_pydantics_own(content)}
        return message

    def _message(self, message: Any, handed_back: list[list[pb.Thinking]]) -> pb.Message:
        if message.get("files"):
            raise UnfitContent("TASK_FAILED", "a message has files, which this release of CrewAI cannot read")
        calls = message.get("tool_calls") or ()
        content: list[pb.ContentPart] = []
        thinking = next((found for call in calls if (found := self._thinking.get(call["id"]))), None)
        # CrewAI may tell the calls of one answer in several messages.
        if thinking is not None and not any(thinking is known for known in handed_back):
            handed_back.append(thinking)
            content = [pb.ContentPart(thinking=piece) for piece in thinking]
        content += content_parts(
            message.get("content"),
            materials=self._attempt.materials,
            asks=message["role"] == "user",
            model=self._model.name,
            can=self._model.capabilities,
        )
        return pb.Message(
            role=_ROLES.get(message["role"], pb.MESSAGE_ROLE_USER),
            content=content,
            tool_calls=[
                pb.ToolCall(
                    id=call["id"],
                    name=call["function"]["name"],
                    arguments_json=self._odd_arguments.get(call["id"], storable(call["function"]["arguments"])),
                    provider_state=self._provider_states.get(call["id"], ""),
                )
                for call in calls
            ],
            tool_call_id=message.get("tool_call_id"),
        )


def mark_beginnings(messages: str | Sequence[Any], sent: Sequence[pb.Message]) -> None:
    """Mark where a beginning ends that CrewAI repeats in every call: the last ones, as many as upstreams take."""
    if isinstance(messages, str):
        return
    ends = [
        message.content[-1]
        for said, message in zip(messages, sent, strict=True)
        if said.get(CACHE_BREAKPOINT_KEY) and text_of(said.get("content")).strip() and message.content
    ]
    for part in ends[-_MAX_CACHE_MARKS:]:
        part.cache_mark = True


def shorter_by_its_longest(messages: str | list[Any]) -> str:
    """Return what makes a conversation of CrewAI's shorter where a call or a result of a tool is most of it; else
    nothing.
    """
    if isinstance(messages, str):
        return ""
    sizes: list[tuple[int, str]] = []
    for message in messages:
        words = len(text_of(message.get("content")))
        advice = ""
        if message["role"] == "tool":
            named = f'"{message["name"]}"' if message.get("name") else "a tool"
            advice = f"a result of {named} has {words:,} characters: have the tool return less"
        sizes.append((words, advice))
        for call in message.get("tool_calls") or ():
            size, name = len(call["function"]["arguments"]), call["function"]["name"]
            advice = (
                f'the arguments of a call of "{name}" have {size:,} characters: have the agent write less at once, or '
                "set its max_tokens"
            )
            sizes.append((size, advice))
    longest, advice = max(sizes, default=(0, ""))
    return advice if longest > _WORTH_NAMING * sum(size for size, _ in sizes) else ""


def _without_pydantics_own(report: str) -> str:
    """Return a report of pydantic's without the names of its types and its links."""
    lines = [line for line in report.split("\n") if not line.lstrip().startswith("For further information visit ")]
    return "\n".join(line.partition(" [type=")[0] for line in lines)


def _is_json_but_no_object(arguments: str) -> bool:
    """CrewAI reads null as no arguments, and tells the model of what is no JSON."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return value is not None and not isinstance(value, dict)
