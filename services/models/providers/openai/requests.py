"""Requests of OpenAI's HTTP interface and its dialects."""

from collections.abc import Sequence
from typing import Any

from services.models.domain.conversation import Completion
from services.models.domain.model import Model, Provider
from services.models.domain.parameters import unsupported_parameters
from services.models.providers.openai.messages import chat_messages, fit_name

ENCODING_FORMAT = "encoding_format"
"""The field of an embeddings call that some upstreams do not know."""

_CHOICES = ("auto", "none", "required")
_OPENAIS_OWN = (Provider.OPENAI, Provider.AZURE)


def chat_request(model: Model, completion: Completion, *, stream: bool) -> dict[str, Any]:
    """Return the body of a chat completion."""
    spec, sampling = model.spec, completion.sampling
    body: dict[str, Any] = {
        "model": spec.upstream_name,
        "messages": chat_messages(model, completion.messages),
    }
    if stream:
        body["stream"] = True
        if spec.provider is not Provider.DATABRICKS:
            body["stream_options"] = {"include_usage": True}
    if completion.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters_schema or {"type": "object", "properties": {}},
                },
            }
            for tool in completion.tools
        ]
        choice = completion.tool_choice
        if choice in _CHOICES:
            body["tool_choice"] = choice
        elif choice:
            body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if completion.response_format is not None:
        schema = completion.response_format.schema
        body["response_format"] = (
            {
                "type": "json_schema",
                "json_schema": {
                    "name": fit_name(completion.response_format.name) or "answer",
                    "schema": schema,
                    "strict": _can_be_strict(schema),
                },
            }
            if schema
            else {"type": "json_object"}
        )
    temperature = sampling.temperature
    if spec.temperature is not None and temperature is None:
        temperature = None if "temperature" in unsupported_parameters(spec, sampling) else spec.temperature
    # Send only the limit that the caller set: providers reserve quota for the whole limit before they begin.
    limit = sampling.max_output_tokens
    if limit and spec.max_output_tokens:
        limit = min(limit, spec.max_output_tokens)
    # OpenAI's reasoning models know only the newer name, older servers of others only the older one.
    limit_name = (
        "max_completion_tokens" if spec.provider in _OPENAIS_OWN and spec.capabilities.reasoning else "max_tokens"
    )
    optional = {
        "temperature": temperature,
        "top_p": sampling.top_p,
        limit_name: limit or None,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "reasoning_effort": sampling.reasoning_effort or None,
        "thinking": (
            {"type": "enabled", "budget_tokens": sampling.thinking_budget_tokens}
            if sampling.thinking_budget_tokens is not None
            else None
        ),
        # Refused where there are no tools to call.
        "parallel_tool_calls": completion.parallel_tool_calls if completion.tools else None,
    }
    # What has a field of its own is never an extra parameter: the operator's list cannot hold it.
    return (
        body
        | {name: value for name, value in optional.items() if value is not None}
        | dict(completion.extra_parameters)
    )


def embeddings_request(model: Model, texts: Sequence[str], dimensions: int) -> dict[str, Any]:
    """Return the body of an embeddings call; `dimensions` of 0 leaves the length of the vectors to the model."""
    body: dict[str, Any] = {"model": model.spec.upstream_name, "input": list(texts)}
    if dimensions:
        body["dimensions"] = dimensions
    if model.spec.provider in _OPENAIS_OWN:
        # A quarter of the bytes, and read without parsing a million numbers.
        body[ENCODING_FORMAT] = "base64"
    return body


def _can_be_strict(schema: Any) -> bool:
    """Whether upstreams enforce a schema to the letter: every object closed, every property required."""
    if isinstance(schema, list):
        return all(_can_be_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        # Schemas come from callers, and may be none.
        if not isinstance(properties, dict) or not isinstance(required, list):
            return False
        if schema.get("additionalProperties") is not False or {*map(str, required)} != {*properties}:
            return False
        return all(_can_be_strict(value) for value in properties.values())
    return all(_can_be_strict(value) for value in schema.values())
