"""The model as CrewAI sees it: every call goes through the host to the models service."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError
from crewai.utilities.pydantic_schema_utils import generate_model_description
from pydantic import BaseModel, PrivateAttr

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.model_pb2 import Model
from services.common.grpc.json_values import to_struct
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.deadline import out_of_time, remaining_time
from services.orchestrator.worker.crew.material import split_material
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.text import storable, storable_json

_BOUNDLESS_WINDOW = 10_000_000
_USABLE_SHARE = 0.85
_CHARACTERS_PER_TOKEN = 4
_SCHEMA_NAME = re.compile(r"[^A-Za-z0-9_-]")
_ROLES = {
    "system": pb.MESSAGE_ROLE_SYSTEM,
    "developer": pb.MESSAGE_ROLE_SYSTEM,
    "user": pb.MESSAGE_ROLE_USER,
    "assistant": pb.MESSAGE_ROLE_ASSISTANT,
    "tool": pb.MESSAGE_ROLE_TOOL,
    "function": pb.MESSAGE_ROLE_TOOL,
}


class HostLLM(BaseLLM):
    """One model for one agent in one attempt at a task."""

    llm_type: str = "coxswain"
    _attempt: TaskAttempt = PrivateAttr()
    _model: Model = PrivateAttr()
    _agent: str = PrivateAttr()
    _role: str = PrivateAttr()
    # CrewAI hands back a tool call's id, name and arguments; providers may want more.
    _provider_states: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def for_agent(
        cls, attempt: TaskAttempt, model: str, *, agent: str = "", role: str = "", temperature: float | None = None
    ) -> "HostLLM":
        """Return the model for an agent of the crew, or for one CrewAI makes itself (`agent` empty)."""
        llm = cls(model=model, temperature=temperature)
        llm._attempt = attempt
        llm._model = attempt.session.model(model)
        llm._agent = agent
        llm._role = role
        return llm

    def supports_function_calling(self) -> bool:
        """Whether the model calls tools by itself; else CrewAI asks for them in words."""
        return self._model.capabilities.tools

    def supports_stop_words(self) -> bool:
        """Never: CrewAI's stop word may be part of an answer, and its parser manages without."""
        return False

    def get_context_window_size(self) -> int:
        """Return the tokens that may be used before CrewAI summarises the conversation."""
        window = self._model.context_window
        return int(window * _USABLE_SHARE) if window else _BOUNDLESS_WINDOW

    def get_input_tokens_count(
        self,
        messages: str | list[Any],
        tools: list[dict[str, Any]] | None = None,
        response_model: type[BaseModel] | None = None,  # noqa: ARG002 - the signature is CrewAI's
    ) -> int:
        """Estimate the tokens of a request."""
        texts = [messages] if isinstance(messages, str) else [_text(message.get("content")) for message in messages]
        characters = sum(map(len, texts)) + sum(len(str(tool)) for tool in tools or ())
        return -(-characters // _CHARACTERS_PER_TOKEN)

    def call(
        self,
        messages: str | list[Any],
        tools: list[dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,  # noqa: ARG002 - the host counts tokens
        available_functions: dict[str, Any] | None = None,  # noqa: ARG002 - the executor runs tools
        from_task: Any = None,  # noqa: ARG002 - the attempt knows its task
        from_agent: Any = None,
        response_model: type[BaseModel] | None = None,
    ) -> str | Any:
        """Return the model's answer: text, a list of tool calls, or an instance of `response_model`.

        Raises:
            HookAborted: the task has to end.
            LLMContextLengthExceededError: the conversation does not fit the model.
            TaskError: the call failed in a way that may pass; the agent tries again.
            ValueError: the answer does not follow `response_model`.
        """
        self._attempt.check()
        self._wait_for_turn()
        completion = self._completion(messages, tools, response_model)
        role = getattr(from_agent, "role", None) or self._role
        try:
            answer = self._attempt.host.complete(completion, role)
        except TaskError as error:
            if error.reason == "CONTEXT_WINDOW_EXCEEDED":
                raise LLMContextLengthExceededError(error.message) from error
            raise
        if answer.tool_calls:
            self._provider_states |= {call.id: call.provider_state for call in answer.tool_calls if call.provider_state}
            return [_openai_tool_call(call) for call in answer.tool_calls]
        if response_model is not None:
            return self._validate_structured_output(answer.text, response_model)
        return answer.text

    def _wait_for_turn(self) -> None:
        pacer = self._attempt.session.pacer(self._agent)
        if pacer is not None and not pacer.wait(remaining_time()):
            raise self._attempt.fail(out_of_time())

    def _completion(
        self, messages: str | list[Any], tools: list[dict[str, Any]] | None, response_model: type[BaseModel] | None
    ) -> pb.Completion:
        return pb.Completion(
            model=self.model,
            messages=[
                _message(message, self._attempt.materials, self._provider_states)
                for message in self._format_messages(messages)
            ],
            tools=[_tool(tool["function"]) for tool in tools or ()],
            response_format=(
                _response_format(response_model)
                if response_model is not None and self._model.capabilities.json_schema
                else None
            ),
            sampling=None if self.temperature is None else pb.Sampling(temperature=self.temperature),
        )


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if isinstance(block, dict))


def _message(message: Any, materials: Sequence[str], provider_states: Mapping[str, str]) -> pb.Message:
    text = storable(_text(message.get("content")))
    content: list[pb.ContentPart] = []
    if text and message["role"] == "user":
        content = split_material(text, materials)
    elif text:
        # Only what asks the model for something can hold material; its own words and instructions do not.
        content = [pb.ContentPart(text=text)]
    return pb.Message(
        role=_ROLES.get(message["role"], pb.MESSAGE_ROLE_USER),
        content=content,
        tool_calls=[
            _tool_call(call["id"], call["function"], provider_states.get(call["id"], ""))
            for call in message.get("tool_calls") or ()
        ],
        tool_call_id=message.get("tool_call_id"),
    )


def _tool_call(call_id: str, function: dict[str, str], provider_state: str) -> pb.ToolCall:
    return pb.ToolCall(
        id=call_id,
        name=function["name"],
        arguments_json=storable(function["arguments"]),
        provider_state=provider_state,
    )


def _tool(function: dict[str, Any]) -> pb.ToolDefinition:
    return pb.ToolDefinition(
        name=function["name"],
        description=storable(function.get("description", "")),
        parameters_schema=to_struct(storable_json(function.get("parameters", {}))),
    )


def _response_format(response_model: type[BaseModel]) -> pb.ResponseFormat:
    described = generate_model_description(response_model)["json_schema"]
    name = _SCHEMA_NAME.sub("_", response_model.__name__)[:64]
    return pb.ResponseFormat(name=name, schema=to_struct(storable_json(described["schema"])))


def _openai_tool_call(call: pb.ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
