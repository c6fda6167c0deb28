"""The model as CrewAI sees it: every call goes through the host to the models service."""

import re
from collections.abc import Sequence
from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.llms.cache import CACHE_BREAKPOINT_KEY
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError
from crewai.utilities.pydantic_schema_utils import generate_model_description
from pydantic import BaseModel, PrivateAttr

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.model_pb2 import Model
from services.common.grpc.json_values import to_struct
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.content import UnfitContent, content_parts, text_of
from services.orchestrator.worker.crew.deadline import out_of_time, remaining_time
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.text import storable, storable_json

_BOUNDLESS_WINDOW = 10_000_000
_USABLE_SHARE = 0.85
_CHARACTERS_PER_TOKEN = 4
_MAX_CACHE_MARKS = 4
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
    # By the id of each tool call of the answer that the thinking led to.
    _thinking: dict[str, list[pb.Thinking]] = PrivateAttr(default_factory=dict)

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

    def supports_multimodal(self) -> bool:
        """Whether the model looks at images by itself."""
        return self._model.capabilities.images

    def get_context_window_size(self) -> int:
        """Return the tokens that may be used before CrewAI summarises the conversation."""
        limit = self._model.max_input_tokens
        return int(limit * _USABLE_SHARE) if limit else _BOUNDLESS_WINDOW

    def get_input_tokens_count(
        self,
        messages: str | list[Any],
        tools: list[dict[str, Any]] | None = None,
        response_model: type[BaseModel] | None = None,  # noqa: ARG002 - the signature is CrewAI's
    ) -> int:
        """Estimate the tokens of a request."""
        texts = [messages] if isinstance(messages, str) else [text_of(message.get("content")) for message in messages]
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
            thinking = list(answer.thinking)
            self._thinking |= {call.id: thinking for call in answer.tool_calls if thinking}
            return [_openai_tool_call(call) for call in answer.tool_calls]
        if response_model is not None:
            return self._validate_structured_output(answer.text, response_model)
        return answer.text

    def _wait_for_turn(self) -> None:
        pacer = self._attempt.session.pacer(self._agent)
        if pacer is not None and not pacer.wait(remaining_time()):
            raise self._attempt.fail(out_of_time())

    def _messages(self, messages: str | list[Any]) -> list[pb.Message]:
        handed_back: list[list[pb.Thinking]] = []
        try:
            sent = [self._message(message, handed_back) for message in self._format_messages(messages)]
        except UnfitContent as error:
            raise self._attempt.fail(TaskError(error.reason, str(error), fatal=True)) from error
        _mark_beginnings(messages, sent)
        return sent

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
            model=self.model,
            can=self._model.capabilities,
        )
        return pb.Message(
            role=_ROLES.get(message["role"], pb.MESSAGE_ROLE_USER),
            content=content,
            tool_calls=[
                _tool_call(call["id"], call["function"], self._provider_states.get(call["id"], "")) for call in calls
            ],
            tool_call_id=message.get("tool_call_id"),
        )

    def _completion(
        self, messages: str | list[Any], tools: list[dict[str, Any]] | None, response_model: type[BaseModel] | None
    ) -> pb.Completion:
        return pb.Completion(
            model=self.model,
            messages=self._messages(messages),
            tools=[_tool(tool["function"]) for tool in tools or ()],
            response_format=(
                _response_format(response_model)
                if response_model is not None and self._model.capabilities.json_schema
                else None
            ),
            sampling=None if self.temperature is None else pb.Sampling(temperature=self.temperature),
        )


def _mark_beginnings(messages: str | Sequence[Any], sent: Sequence[pb.Message]) -> None:
    """Mark where a beginning ends that CrewAI repeats in every call: the last ones, as many as upstreams take."""
    if isinstance(messages, str):
        return
    ends = [
        told.content[-1]
        for said, told in zip(messages, sent, strict=True)
        if said.get(CACHE_BREAKPOINT_KEY) and text_of(said.get("content")).strip() and told.content
    ]
    for part in ends[-_MAX_CACHE_MARKS:]:
        part.cache_mark = True


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
