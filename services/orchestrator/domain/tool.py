"""Tools of crews, and what is known of their calls."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ToolCallState(StrEnum):
    """What the journal knows of a tool call."""

    INTENT = "INTENT"
    """It was about to run; whether it did is not known."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool crews can use, as the catalogue describes it."""

    name: str
    description: str
    config_schema: dict[str, Any]
    """JSON schema of the settings a crew may give it."""
    arguments_schema: dict[str, Any]
    """JSON schema of the arguments a model gives it."""
    idempotent: bool
    """Whether calling it twice does no harm."""
