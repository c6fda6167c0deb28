"""Tools for the files of the execution. What they do is in `worker/host/host_tools`."""

from services.orchestrator.domain.artifact import MAX_NAME_CHARACTERS
from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

_NAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_NAME_CHARACTERS,
    "description": "Relative path with / between its parts. Example: notes/report.md",
}

TOOLS = (
    Tool(
        name="file_write",
        description=(
            "Stores a text as a file that people can download and other agents can read. A file of that name gets the "
            "new content."
        ),
        config_schema=object_schema({}),
        arguments_schema=object_schema(
            {"name": _NAME, "content": {"type": "string", "description": "The whole content of the file."}},
            "name",
            "content",
        ),
        idempotent=True,
        in_host=True,
    ),
    Tool(
        name="file_read",
        description="Reads a text file that this or another agent has written, 50,000 characters at a time.",
        config_schema=object_schema({}),
        arguments_schema=object_schema(
            {
                "name": _NAME,
                "start": {
                    "type": "integer",
                    "minimum": 0,
                    "default": 0,
                    "description": "Position of the first character to read; 0 is the beginning.",
                },
            },
            "name",
        ),
        idempotent=True,
        in_host=True,
    ),
    Tool(
        name="file_list",
        description="Lists the files that agents have written, with their types and sizes.",
        config_schema=object_schema({}),
        arguments_schema=object_schema(
            {
                "prefix": {
                    "type": "string",
                    "maxLength": MAX_NAME_CHARACTERS,
                    "default": "",
                    "description": "Lists only files whose names begin with this. Example: notes/",
                }
            }
        ),
        idempotent=True,
        in_host=True,
    ),
)
