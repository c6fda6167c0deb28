"""The tools crews can use, described. What they do is in `worker/crew/tools`, which alone may import crewai."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.orchestrator.domain.tool import Tool


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_TOOLS = (
    Tool(
        name="calculator",
        description=(
            "Works out an arithmetic expression exactly as written: + - * / // % **, parentheses, and the functions "
            "abs, round, min, max, sqrt."
        ),
        config_schema=_object(
            {
                "decimal_places": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 15,
                    "default": 10,
                    "description": "Places the result is rounded to.",
                }
            }
        ),
        arguments_schema=_object(
            {
                "expression": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1000,
                    "description": "The expression. Example: (1200 * 0.077) + 35",
                }
            },
            "expression",
        ),
        idempotent=True,
        in_crew_process=True,
    ),
    Tool(
        name="current_time",
        description="Tells the present date and time in a time zone, as ISO 8601 with the weekday.",
        config_schema=_object(
            {
                "time_zone": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 64,
                    "default": "UTC",
                    "description": "IANA time zone used when the model names none.",
                }
            }
        ),
        arguments_schema=_object(
            {
                "time_zone": {
                    "type": "string",
                    "maxLength": 64,
                    "default": "",
                    "description": "IANA time zone. Example: Europe/Zurich. Empty means the crew's choice.",
                }
            }
        ),
        idempotent=True,
        in_crew_process=True,
    ),
    Tool(
        name="text_statistics",
        description="Counts the characters, words, sentences and paragraphs of a text; names its most frequent words.",
        config_schema=_object(
            {
                "frequent_words": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100,
                    "default": 10,
                    "description": "How many of the most frequent words are named.",
                }
            }
        ),
        arguments_schema=_object(
            {"text": {"type": "string", "minLength": 1, "maxLength": 1_000_000, "description": "The text."}}, "text"
        ),
        idempotent=True,
        in_crew_process=True,
    ),
)

TOOLS: Mapping[str, Tool] = MappingProxyType({tool.name: tool for tool in sorted(_TOOLS, key=lambda tool: tool.name)})
"""Every tool by its name, in the order of names."""
