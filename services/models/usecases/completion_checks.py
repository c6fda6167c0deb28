"""What is wrong with a completion before any model is asked, and what of it a model takes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from services.common.errors import FieldViolation, InvalidArgument
from services.models.domain.conversation import USUAL_SAMPLING, Completion, MessageRole
from services.models.domain.extra_parameters import DEFAULT_EXTRA_PARAMETERS
from services.models.domain.model import Model, Provider
from services.models.domain.parameters import unsupported_parameters
from services.models.domain.tokens import estimate_prompt_tokens, least_tokens
from services.models.usecases.capabilities import lacking_capability
from services.models.usecases.part_checks import PartChecks
from services.models.usecases.schema_form import schema_faults

_SAMPLING = ("temperature", "top_p", "max_output_tokens", "stop", "seed", "reasoning_effort", "thinking_budget_tokens")
# What these say is what every model does that does not take them.
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0}
_MAX_EXTRA_BYTES = 64 * 1024


@dataclass(slots=True)
class FittedCompletion:
    """A completion as one model takes it."""

    completion: Completion
    dropped: tuple[str, ...] = ()
    """Names of the parameters that were left out, in the order of their fields."""


class CompletionChecks:
    """Checks completions, and leaves out what a model does not take where a call says so."""

    def __init__(self, extra_parameters: frozenset[str], parts: PartChecks) -> None:
        """`extra_parameters` are those that the operator allows."""
        self._extra_parameters = extra_parameters
        self._parts = parts

    def fit(self, model: Model, completion: Completion) -> FittedCompletion:
        """Check that the conversation makes sense and that the model can do what is asked; return what it takes.

        Raises:
            InvalidArgument: the conversation is not valid or far too long, or a parameter is not allowed or not taken.
            FailedPrecondition: the model lacks a capability.
        """
        _check_conversation(completion)
        _check_response_format(completion)
        _check_capabilities(model, completion)
        self._parts.check(model, completion.messages)
        self._check_extra_parameters(model, completion.extra_parameters)
        _check_window(model, completion)
        return _fit_parameters(model, completion)

    def _check_extra_parameters(self, model: Model, given: Any) -> None:
        if not given:
            return
        allowed = self._extra_parameters
        if model.spec.provider is Provider.LITELLM:
            allowed = allowed.intersection(DEFAULT_EXTRA_PARAMETERS)
        listed = ", ".join(sorted(allowed)) or "none"
        refused = [
            FieldViolation(f"completion.extra_parameters.{name}", f"is not allowed; allowed are {listed}")
            for name in given
            if name not in allowed
        ]
        if refused:
            raise InvalidArgument.fields(refused)
        if len(json.dumps(given)) > _MAX_EXTRA_BYTES:
            raise InvalidArgument.field(
                "completion.extra_parameters", f"must be at most {_MAX_EXTRA_BYTES} bytes long as JSON"
            )


def _check_capabilities(model: Model, completion: Completion) -> None:
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


def _check_response_format(completion: Completion) -> None:
    asked = completion.response_format
    if asked is not None and (faults := schema_faults("completion.response_format.schema", asked.schema)):
        raise InvalidArgument.fields(faults)


def _check_window(model: Model, completion: Completion) -> None:
    """Refuse a prompt that is too long by any count: what is near the limit is the upstream's to judge."""
    window = model.spec.input_limit
    if not window or model.spec.provider is Provider.OFFLINE:
        # Offline models count exactly, and refuse by that.
        return
    texts = [part.text for message in completion.messages for part in message.content]
    texts += [call.arguments_json for message in completion.messages for call in message.tool_calls]
    # Two characters make at least one token only in theory: most prompts need no closer look.
    if sum(map(len, texts)) <= 2 * window or sum(map(least_tokens, texts)) <= window:
        return
    sizes = [estimate_prompt_tokens([message]) for message in completion.messages]
    total = sum(sizes)
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    raise InvalidArgument(
        f'the prompt has about {total} tokens, and "{model.name}" takes {window}; shorten it, first of all its longest '
        f"message, completion.messages[{longest}] with about {sizes[longest]} tokens, or choose a model with a larger "
        "window",
        reason="CONTEXT_WINDOW_EXCEEDED",
        metadata={"model": model.name, "context_window": str(window), "estimated_tokens": str(total)},
    )


def _fit_parameters(model: Model, completion: Completion) -> FittedCompletion:
    sampling = completion.sampling
    if sampling is USUAL_SAMPLING and not completion.extra_parameters and completion.parallel_tool_calls is None:
        return FittedCompletion(completion)
    budget, limit = sampling.thinking_budget_tokens, sampling.max_output_tokens
    if budget is not None and limit is not None and budget >= limit:
        raise InvalidArgument.field(
            "completion.sampling.thinking_budget_tokens",
            f"must be less than max_output_tokens, which is {limit}: thoughts count among the output",
        )
    asked = list(_asked(completion))
    if not asked:
        return FittedCompletion(completion)
    # Which of its deployments answers is not known yet.
    served = [model.at(deployment) for deployment in model.spec.deployments] or [model]
    refused = frozenset[str]().union(*(unsupported_parameters(one.spec, sampling) for one in served))
    offline = model.spec.provider is Provider.OFFLINE
    unfit = [
        (name, path) for name, path in asked if name in refused or (offline and name in completion.extra_parameters)
    ]
    if not unfit:
        return FittedCompletion(completion)
    names = [name for name, _ in unfit]
    said = [(name, path) for name, path in unfit if getattr(sampling, name, None) != _NEUTRAL.get(name, ())]
    if said and not completion.drop_unsupported_parameters:
        raise InvalidArgument.fields(
            [
                FieldViolation(
                    path,
                    f'is not taken by the model "{model.name}"; leave it out, or have it left out with '
                    "completion.drop_unsupported_parameters",
                )
                for _, path in said
            ]
        )
    fitted = replace(
        completion,
        sampling=replace(sampling, **{name: getattr(USUAL_SAMPLING, name) for name in names if name in _SAMPLING}),
        parallel_tool_calls=None if "parallel_tool_calls" in names else completion.parallel_tool_calls,
        extra_parameters={name: value for name, value in completion.extra_parameters.items() if name not in names},
    )
    return FittedCompletion(fitted, tuple(name for name, _ in said))


def _asked(completion: Completion) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of each parameter that a call sets."""
    sampling = completion.sampling
    for name in _SAMPLING:
        if getattr(sampling, name) not in (None, "", ()):
            yield name, f"completion.sampling.{name}"
    for name in completion.extra_parameters:
        yield name, f"completion.extra_parameters.{name}"
    if completion.parallel_tool_calls is not None:
        yield "parallel_tool_calls", "completion.parallel_tool_calls"


def _check_conversation(completion: Completion) -> None:
    names = [tool.name for tool in completion.tools]
    if len(set(names)) != len(names):
        raise InvalidArgument.field("completion.tools", "must not have two tools of the same name")
    choices = ("", "auto", "none", *names, *(["required"] if names else []))
    if completion.tool_choice not in choices:
        allowed = (
            '"auto", "none", "required" or the name of one of the tools'
            if names
            else '"auto" or "none" in a call without tools; give the tools to choose from in completion.tools'
        )
        raise InvalidArgument.field("completion.tool_choice", f"must be {allowed}")
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
