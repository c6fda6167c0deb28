"""The model as CrewAI sees it: every call goes through the host to the models service."""

import asyncio
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from crewai.llms.base_llm import BaseLLM
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError
from crewai.utilities.i18n import I18N_DEFAULT
from crewai.utilities.pydantic_schema_utils import generate_model_description
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel, PrivateAttr

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.model_pb2 import Model
from coxswain.orchestrator.worker.link_pb2 import AgentTool, Complete
from services.common.grpc.json_values import to_struct
from services.common.storable import storable, storable_json
from services.orchestrator.domain.crew import AgentSpec, ModelCallSettings, ToolCalling
from services.orchestrator.worker.crew.attempt import TaskAttempt
from services.orchestrator.worker.crew.content import UnfitContent, text_of
from services.orchestrator.worker.crew.conversation import Conversation, mark_beginnings, shorter_by_its_longest
from services.orchestrator.worker.crew.deadline import out_of_time, remaining_time
from services.orchestrator.worker.crew.usable_answers import (
    OBSERVATION,
    Reader,
    Unusable,
    quoted,
    read_in_words,
    read_last,
    read_text,
    schema_reader,
)
from services.orchestrator.worker.crew.window import Window
from services.orchestrator.worker.link.errors import TaskError

_BOUNDLESS_WINDOW = 10_000_000
_USABLE_SHARE = 0.85
_CHARACTERS_PER_TOKEN = 4
_SCHEMA_NAME = re.compile(r"[^A-Za-z0-9_-]")

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])


def _never_repeated(method: Method) -> Method:
    """Keep CrewAI from calling the method again on errors that speak of rate limits: the host has the patience."""
    method._crewai_rate_limit_wrapped = True  # type: ignore[attr-defined]  # noqa: SLF001 - CrewAI looks there
    return method


class HostLLM(BaseLLM):
    """One model for one agent in one attempt at a task."""

    llm_type: str = "coxswain"
    _attempt: TaskAttempt = PrivateAttr()
    _model: Model = PrivateAttr()
    _agent: str = PrivateAttr()
    _role: str = PrivateAttr()
    _sampling: pb.Sampling | None = PrivateAttr(default=None)
    _settings: ModelCallSettings = PrivateAttr()
    _tries: int = PrivateAttr(default=3)
    """Answers that may lack the form that was asked for until it is given up."""
    _conversation: Conversation = PrivateAttr()
    _window: Window = PrivateAttr()
    _tools_of_agent: frozenset[str] = PrivateAttr(default=frozenset())
    """Names of the tools of the agent that asked last, which does not say so in its last request."""

    @classmethod
    def of_agent(cls, attempt: TaskAttempt, spec: AgentSpec, role: str) -> "HostLLM":
        """Return the model of an agent of the crew as the agent uses it; `role` has the inputs filled in."""
        llm = cls.for_agent(attempt, spec.model, agent=spec.name, role=role)
        llm.temperature = spec.temperature
        if (spec.temperature, spec.max_tokens, spec.reasoning_effort) != (None, None, ""):
            llm._sampling = pb.Sampling(  # noqa: SLF001 - as in `for_agent`
                temperature=spec.temperature,
                max_output_tokens=spec.max_tokens,
                reasoning_effort=spec.reasoning_effort,
            )
        return llm

    @classmethod
    def for_agent(cls, attempt: TaskAttempt, model: str, *, agent: str = "", role: str = "") -> "HostLLM":
        """Return a model for an agent of the crew, or for one CrewAI makes itself (`agent` empty)."""
        llm = cls(model=model)
        llm._attempt = attempt
        llm._model = attempt.session.model(model)
        llm._conversation = Conversation(attempt, llm._model)
        llm._agent = agent
        llm._role = role
        llm._settings = attempt.session.spec.model_calls_of(agent)
        if agent:
            llm._tries = attempt.session.agent(agent).max_retries + 1
        limit = llm._model.max_input_tokens
        llm._window = Window(int(limit * _USABLE_SHARE) if limit else _BOUNDLESS_WINDOW)
        return llm

    @property
    def attempt(self) -> TaskAttempt:
        """The attempt at a task it works for."""
        return self._attempt

    def supports_function_calling(self) -> bool:
        """Whether the model calls tools by itself; else CrewAI asks for them in words."""
        return self._model.capabilities.tools and self._settings.tool_calling is not ToolCalling.IN_WORDS

    def supports_stop_words(self) -> bool:
        """Never: CrewAI's stop word may be part of an answer, and its parser manages without."""
        return False

    def supports_multimodal(self) -> bool:
        """Whether the model looks at images by itself."""
        return self._model.capabilities.images

    def get_context_window_size(self) -> int:
        """Return the tokens that may be used before CrewAI summarises the conversation."""
        return self._window.tokens

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

    def summarize_messages(self, messages: list[Any], callbacks: list[Any], verbose: bool = True) -> None:
        """Put a summary in the place of a conversation, made of parts that become smaller until the model takes them.

        Raises:
            HookAborted: it does not fit in any way; the task has to end.
        """
        while True:
            before = self._window.tokens
            try:
                super().summarize_messages(messages, callbacks, verbose)
            except LLMContextLengthExceededError as error:
                if self._window.tokens >= before:
                    raise self._fits_in_no_way(messages) from error
            else:
                return

    @_never_repeated
    async def acall(self, *args: Any, **kwargs: Any) -> str | Any:
        """Return what `call` returns, without holding the event loop; CrewAI sums up parts beside each other."""
        return await asyncio.to_thread(self.call, *args, **kwargs)

    @_never_repeated
    def call(
        self,
        messages: str | list[Any],
        tools: list[dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,  # noqa: ARG002 - the host counts tokens
        available_functions: dict[str, Any] | None = None,  # noqa: ARG002 - the executor runs tools
        from_task: Any = None,
        from_agent: Any = None,
        response_model: type[BaseModel] | None = None,
    ) -> str | Any:
        """Return the model's answer: text, a list of tool calls, or an instance of `response_model`.

        Raises:
            HookAborted: the task has to end.
            LLMContextLengthExceededError: the conversation does not fit the model.
            TaskError: the call failed in a way that may pass; the agent tries again.
            ValueError: the answer does not follow `response_model`, and no task's result depends on it.
        """
        role = getattr(from_agent, "role", None) or self._role
        if response_model is not None:
            return self.structured(messages, response_model, role=role, is_result=from_task is not None, tools=tools)
        if from_agent is not None:
            self._tools_of_agent = _tools_of(from_agent)
        elif tools is None and _is_last_request(messages):
            return self._until_usable(
                messages, functools.partial(read_last, tools=self._tools_of_agent), role, is_result=True
            )
        if tools is None and from_agent is not None and self._tools_of_agent and not self.supports_function_calling():
            # What reaches the world is called by its very name.
            names = self._tools_of_agent & set(self._attempt.session.host_tools) and self._tools_of_agent
            read = functools.partial(read_in_words, tools=names)
            return self._until_usable(messages, read, role, stop=[OBSERVATION], is_result=True)
        native = functools.partial(read_text, tools={tool["function"]["name"] for tool in tools or ()})
        return self._until_usable(messages, native, role, tools=tools, is_result=True)

    def structured(
        self,
        messages: str | list[Any],
        response_model: type[BaseModel],
        *,
        role: str = "",
        is_result: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> BaseModel | list[dict[str, Any]]:
        """Return an answer that follows a schema; the model is told what is wrong with one that does not.

        Raises what `call` does.
        """
        return self._until_usable(
            messages, schema_reader(response_model), role, tools=tools, schema=response_model, is_result=is_result
        )

    def consider(self, messages: list[Any], response_model: type[BaseModel], *, question: str) -> BaseModel | None:
        """Return what a model thinks, asked once; None when it has nothing of use to say, or cannot be asked.

        `question` stands for the messages in the journal: they quote what may have changed until the next attempt.

        Raises:
            HookAborted: the task has to end.
        """
        self._attempt.check()
        self._wait_for_turn()
        completion = self._completion(messages, None, response_model, ())
        try:
            return schema_reader(response_model)(self._answer_from_host(completion, "", question=question).text)
        except (TaskError, Unusable):
            # The host's events tell of it.
            return None

    def _until_usable(
        self, messages: str | list[Any], read: Reader[T], role: str, *, is_result: bool, **asked: Any
    ) -> T | list[dict[str, Any]]:
        """Return what `read` makes of an answer, asking again while it cannot; `asked` is of `_ask`."""
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        left = self._tries
        while True:
            answer = self._ask(conversation, role=role, **asked)
            if answer.tool_calls:
                self._attempt.agent_role, self._attempt.agent_text = role, answer.text
                return self._conversation.tool_calls(answer)
            try:
                return read(answer.text)
            except Unusable as error:
                left -= 1
                if not left:
                    raise self._unusable(answer, error, is_result=is_result) from error
                conversation.append({"role": "assistant", "content": answer.text})
                conversation.append({"role": "user", "content": error.request})

    def _unusable(self, answer: pb.CompleteResponse, error: Unusable, *, is_result: bool) -> Exception:
        cut = "; it was cut off at the largest number of tokens" if _is_cut_off(answer) else ""
        message = (
            f'the answer of the model "{self.model}" does not have the form that was asked for, not even after it was '
            f"told so: {error}{cut}; ask for something simpler or choose another model. The answer was: "
            f"{quoted(answer.text)}"
        )
        return self._attempt.fail(TaskError("TASK_FAILED", message, fatal=True)) if is_result else ValueError(message)

    def _ask(
        self,
        messages: str | list[Any],
        tools: list[dict[str, Any]] | None = None,
        role: str = "",
        *,
        schema: type[BaseModel] | None = None,
        stop: Sequence[str] = (),
    ) -> pb.CompleteResponse:
        self._attempt.check()
        self._wait_for_turn()
        completion = self._completion(messages, tools, schema, stop)
        window = self._window.tokens
        try:
            answer = self._answer_from_host(completion, role)
        except TaskError as error:
            if error.reason == "CONTEXT_WINDOW_EXCEEDED":
                if not self._window.refused(self.get_input_tokens_count(messages, tools), window):
                    raise self._fits_in_no_way(messages) from error
                raise LLMContextLengthExceededError(error.message) from error
            raise
        if not answer.tool_calls and _is_cut_off(answer):
            self._attempt.cut_off.append(answer.text.strip())
        return answer

    def _answer_from_host(self, completion: pb.Completion, role: str, *, question: str = "") -> pb.CompleteResponse:
        with self._attempt.occurrences.question(question or _key_of(completion)) as occurrence:
            request = Complete(
                completion=completion,
                agent_role=storable(role),
                occurrence=occurrence,
                time_left=remaining_time(),
                timeout=self._settings.timeout,
                first_token_timeout=self._settings.first_token_timeout,
                question=question,
                dispensable=bool(question),
            )
            return self._attempt.host.complete(request)

    def _wait_for_turn(self) -> None:
        pacer = self._attempt.session.pacer(self._agent)
        if pacer is not None and not pacer.wait(remaining_time()):
            raise self._attempt.fail(out_of_time())

    def _fits_in_no_way(self, messages: str | list[Any]) -> Exception:
        limit = self._model.max_input_tokens
        window = f" of {limit} tokens" if limit else ""
        shorter = shorter_by_its_longest(messages) or (
            "shorten the inputs, the task's description, the results it takes over, the agent's role, goal and "
            "backstory, or the calls and results of its tools"
        )
        message = (
            f'the conversation does not fit the window{window} of "{self.model}", not even summed up: {shorter}; or '
            "choose a model with a larger window"
        )
        return self._attempt.fail(TaskError("CONTEXT_WINDOW_EXCEEDED", message, fatal=True))

    def _messages(self, messages: str | list[Any], tools: Sequence[dict[str, Any]]) -> list[pb.Message]:
        try:
            sent = self._conversation.messages(self._format_messages(messages), tools)
        except UnfitContent as error:
            raise self._attempt.fail(TaskError(error.reason, str(error), fatal=True)) from error
        mark_beginnings(messages, sent)
        return sent

    def _completion(
        self,
        messages: str | list[Any],
        tools: list[dict[str, Any]] | None,
        response_model: type[BaseModel] | None,
        stop: Sequence[str],
    ) -> pb.Completion:
        sampling = pb.Sampling(stop=stop)
        if self._sampling is not None:
            sampling.MergeFrom(self._sampling)
        return pb.Completion(
            model=self.model,
            messages=self._messages(messages, tools or ()),
            tools=[_tool(tool["function"], self._attempt.session.host_tools) for tool in tools or ()],
            response_format=(
                _response_format(response_model)
                if response_model is not None and self._model.capabilities.json_schema
                else None
            ),
            sampling=sampling if sampling.ByteSize() else None,
        )


def _tools_of(agent: Any) -> frozenset[str]:
    """Return the names of the tools that an agent can call at what it does now."""
    executor = getattr(agent, "agent_executor", None)
    return frozenset(sanitize_tool_name(tool.name) for tool in getattr(executor, "original_tools", None) or ())


def _is_last_request(messages: str | list[Any]) -> bool:
    """Return whether an agent has to answer now, having reached its max_iterations."""
    return not isinstance(messages, str) and messages[-1].get("content") == I18N_DEFAULT.errors("force_final_answer")


def _key_of(completion: pb.Completion) -> str:
    return hashlib.sha256(completion.SerializeToString(deterministic=True)).hexdigest()


def _is_cut_off(answer: pb.CompleteResponse) -> bool:
    return answer.finish_reason == pb.FINISH_REASON_LENGTH


def _tool(function: dict[str, Any], host_tools: Mapping[str, AgentTool]) -> pb.ToolDefinition:
    # CrewAI makes every property a required one, and more of the kind.
    known = host_tools.get(function["name"])
    parameters = json.loads(known.arguments_schema_json) if known is not None else function.get("parameters", {})
    return pb.ToolDefinition(
        name=function["name"],
        description=storable(function.get("description", "")),
        parameters_schema=to_struct(storable_json(parameters)),
    )


def _response_format(response_model: type[BaseModel]) -> pb.ResponseFormat:
    described = generate_model_description(response_model)["json_schema"]
    name = _SCHEMA_NAME.sub("_", response_model.__name__)[:64]
    return pb.ResponseFormat(name=name, schema=to_struct(storable_json(_with_free_objects(described["schema"]))))


def _with_free_objects(schema: Any) -> Any:
    """Return a schema whose objects without named properties may hold any; CrewAI closes them: {} would be all."""
    if isinstance(schema, list):
        return [_with_free_objects(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: _with_free_objects(part) for name, part in schema.items()}
    free = schema.get("type") == "object" and not schema.get("properties")
    return {**parts, "additionalProperties": True} if free else parts
