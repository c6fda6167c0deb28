"""Whether a built-in tool can work with the arguments of a call."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from services.orchestrator.setting_faults import setting_fault
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_gateway.ports import CallRefused

_MOST_FAULTS = 3


def refuse_odd_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what does not follow the schema of a built-in tool, also where its caller has looked already.

    Raises:
        CallRefused: TOOL_ARGUMENTS.
    """
    errors = list(itertools.islice(_validator(name).iter_errors(arguments), _MOST_FAULTS))
    if errors:
        raise CallRefused("; ".join(map(_fault, errors)), reason="TOOL_ARGUMENTS")


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(TOOLS[name].arguments_schema)


def _fault(error: Any) -> str:
    path = "arguments" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.path)
    if error.validator == "additionalProperties":
        return f"{path} may only have {', '.join(error.schema.get('properties', {}))}"
    return f"{path} {setting_fault(error)}"
