"""The model as CrewAI sees it: every call goes through the host to the models service."""

import json
import re
from collections.abc import Sequence
from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError
from crewai.utilities.pydantic_schema_utils import generate_model_description
from pydantic import BaseModel, PrivateAttr

from services.orchestrator.worker.crew.material import split_material
from services.orchestrator.worker.crew.session import ModelFacts, TaskRun, out_of_time, remaining_time
from services.orchestrator.worker.link.framing import Frame, RemoteError

_BOUNDLESS_WINDOW = 10_000_000
_USABLE_SHARE = 0.85
_CHARACTERS_PER_TOKEN = 4
_SCHEMA_NAME = re.compile(r"[^A-Za-z0-9_-]")


class HostLLM(BaseLLM):
    """One model for one agent in one run of a task."""

    llm_type: str = "coxswain"
    _run: TaskRun = PrivateAttr()
    _facts: ModelFacts = PrivateAttr()
    _agent: str = PrivateAttr()
    _role: str = PrivateAttr()

    @classmethod
    def for_agent(
        cls, run: TaskRun, model: str, *, agent: str = "", role: str = "", temperature: float | None = None
    ) -> "HostLLM":
        """Return the model for an agent of the crew, or for one CrewAI makes itself (`agent` empty)."""
        llm = cls(model=model, temperature=temperature)
        llm._run = run
        llm._facts = run.session.facts(model)
        llm._agent = agent
        llm._role = role
        return llm

    def supports_function_calling(self) -> bool:
        """Whether the model calls tools by itself; else CrewAI asks for them in words."""
        return self._facts.tools

    def supports_stop_words(self) -> bool:
        """Never: CrewAI's stop word may be part of an answer, and its parser manages without."""
        return False

    def get_context_window_size(self) -> int:
        """Return the tokens that may be used before CrewAI summarises the conversation."""
        window = self._facts.context_window
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
        from_task: Any = None,  # noqa: ARG002 - the run knows its task
        from_agent: Any = None,
        response_model: type[BaseModel] | None = None,
    ) -> str | Any:
        """Return the model's answer: text, a list of tool calls, or an instance of `response_model`.

        Raises:
            HookAborted: the task has to end.
            LLMContextLengthExceededError: the conversation does not fit the model.
            RemoteError: the call failed in a way that may pass; the agent tries again.
            ValueError: the answer does not follow `response_model`.
        """
        run = self._run
        run.check()
        self._wait_for_turn()
        request = self._request(messages, tools, response_model)
        role = getattr(from_agent, "role", None) or self._role
        try:
            answer = run.call("llm.complete", {"request": request, "agent_role": role})
        except RemoteError as error:
            if error.reason == "CONTEXT_WINDOW_EXCEEDED":
                raise LLMContextLengthExceededError(error.message) from error
            raise
        if answer["tool_calls"]:
            return [_openai_tool_call(call) for call in answer["tool_calls"]]
        if response_model is not None:
            return self._validate_structured_output(answer["text"], response_model)
        return answer["text"]

    def _wait_for_turn(self) -> None:
        pacer = self._run.session.pacer(self._agent)
        if pacer is not None and not pacer.wait(remaining_time()):
            raise self._run.fail(out_of_time())

    def _request(
        self, messages: str | list[Any], tools: list[dict[str, Any]] | None, response_model: type[BaseModel] | None
    ) -> Frame:
        request: Frame = {
            "model": self.model,
            "messages": [_message(message, self._run.materials) for message in self._format_messages(messages)],
        }
        if tools:
            request["tools"] = [_tool(tool) for tool in tools]
        if response_model is not None and self._facts.json_schema:
            request["response_format"] = _response_format(response_model)
        if self.temperature is not None:
            request["temperature"] = self.temperature
        return request


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if isinstance(block, dict))


def _message(message: Any, materials: Sequence[str]) -> Frame:
    role = message["role"]
    text = _text(message.get("content"))
    told: Frame = {"role": role}
    if text:
        # Only what asks the model for something can hold material; its own words and instructions do not.
        told["content"] = split_material(text, materials) if role == "user" else [{"text": text}]
    if message.get("tool_calls"):
        told["tool_calls"] = [
            {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            for call in message["tool_calls"]
        ]
    if message.get("tool_call_id"):
        told["tool_call_id"] = message["tool_call_id"]
    return told


def _tool(tool: dict[str, Any]) -> Frame:
    function = tool["function"]
    return {
        "name": function["name"],
        "description": function.get("description", ""),
        "parameters": function.get("parameters", {}),
    }


def _response_format(response_model: type[BaseModel]) -> Frame:
    described = generate_model_description(response_model)["json_schema"]
    name = _SCHEMA_NAME.sub("_", response_model.__name__)[:64]
    return {"name": name, "schema": described["schema"]}


def _openai_tool_call(call: Frame) -> Frame:
    arguments = call["arguments"]
    return {
        "id": call["id"],
        "type": "function",
        "function": {
            "name": call["name"],
            "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
        },
    }
