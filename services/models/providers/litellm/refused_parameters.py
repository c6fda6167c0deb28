"""Parameters that litellm does not pass on to a provider: it refuses the call before anything is sent."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from services.common.errors import InvalidArgument
from services.models.domain.answer import Delta, FinishDelta
from services.models.domain.conversation import Completion
from services.models.domain.model import Model

_PARAMETERS = "parameters"
# Names as Python shows a list or a dictionary of them.
_LISTED = re.compile(r"[\[{]([^\[\]{}]{1,400})[\]}]")
_QUOTED_NAME = re.compile(r"'([a-z_]{1,64})'(?:\s*[:,]|\s*$)")
# What a call may have left out, under the names of requests and of our fields.
_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_output_tokens",
    "stop": "stop",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
    "thinking": "thinking_budget_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
}


def refused_parameters(model: Model, message: str) -> InvalidArgument:
    """Return the failure that litellm's message stands for."""
    listed = next(filter(None, _LISTED.findall(message)), "")
    names = sorted(set(_QUOTED_NAME.findall(listed)))
    said = ", ".join(_FIELDS.get(name, name) for name in names) or "a parameter of the call"
    return InvalidArgument(
        f'the provider of "{model.name}" does not take {said}; leave it out, or have it left out with '
        "completion.drop_unsupported_parameters",
        reason="UPSTREAM_REJECTED",
        metadata={"model": model.name, _PARAMETERS: ",".join(names)},
    )


def drop_refused(request: dict[str, Any], completion: Completion, failure: InvalidArgument) -> list[str]:
    """Leave out of a request what was refused, and return its names; none where the call wants to be told instead."""
    if not completion.drop_unsupported_parameters:
        return []
    refused = failure.metadata.get(_PARAMETERS, "").split(",")
    names = [name for name in refused if name in request and (name in _FIELDS or name in completion.extra_parameters)]
    for name in names:
        del request[name]
    return [_FIELDS.get(name, name) for name in names]


async def naming_dropped(deltas: AsyncGenerator[Delta, None], dropped: list[str]) -> AsyncGenerator[Delta, None]:
    """Yield an answer that names at its end what was left out of its request."""
    async with aclosing(deltas):
        async for delta in deltas:
            yield replace(delta, dropped_parameters=tuple(dropped)) if isinstance(delta, FinishDelta) else delta
