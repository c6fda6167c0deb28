"""A tool that reads on in results. What it does is in `worker/host/host_tools`."""

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

TOOLS = (
    Tool(
        name="read_result",
        description="Reads on in the result of an earlier tool call that was too long to be shown at once.",
        config_schema=object_schema({}),
        arguments_schema=object_schema(
            {
                "handle": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 128,
                    "description": "The handle that stands at the end of what was shown of the result.",
                },
                "start": {
                    "type": "integer",
                    "minimum": 0,
                    "default": 0,
                    "description": "Position of the first character to read; 0 is the beginning.",
                },
            },
            "handle",
        ),
        idempotent=True,
        in_host=True,
    ),
)
