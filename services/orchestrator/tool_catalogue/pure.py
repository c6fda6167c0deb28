"""Tools that work out what they are given, in the crew process. What they do is in `worker/crew/tools`."""

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

TOOLS = (
    Tool(
        name="calculator",
        description=(
            "Works out an arithmetic expression exactly as written: + - * / // % **, parentheses, and the functions "
            "abs, round, min, max, sqrt."
        ),
        config_schema=object_schema(
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
        arguments_schema=object_schema(
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
        config_schema=object_schema(
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
        arguments_schema=object_schema(
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
        config_schema=object_schema(
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
        arguments_schema=object_schema(
            {"text": {"type": "string", "minLength": 1, "maxLength": 1_000_000, "description": "The text."}}, "text"
        ),
        idempotent=True,
        in_crew_process=True,
    ),
)
