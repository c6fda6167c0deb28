"""Tools for the web: pages, search, and requests to the origins that a crew allows."""

from typing import Any

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

PAGE_CHARACTERS = 50_000
"""Of a page that is returned at once."""
_ORIGINS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "pattern": r"^https?://[^/?#\s]+$", "maxLength": 512},
    "minItems": 1,
    "maxItems": 16,
    "uniqueItems": True,
}

TOOLS = (
    Tool(
        name="web_fetch",
        description=(
            "Reads a web page or a PDF file and returns its text as Markdown, with its title and links. Long pages "
            f"come in parts of {PAGE_CHARACTERS} characters: call it again with the start that the end of a part names."
        ),
        config_schema=object_schema(
            {
                "origins": _ORIGINS
                | {"description": "Origins that may be read; left out: any. Example: https://docs.example.com."},
                "max_links": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 200,
                    "default": 50,
                    "description": "Links that are listed below the first part; more are left out.",
                },
            }
        ),
        arguments_schema=object_schema(
            {
                "url": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 4096,
                    "description": "Address of the page. Example: https://example.com/news.",
                },
                "start": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100_000_000,
                    "default": 0,
                    "description": "Character at which the part begins; 0 is the beginning of the page.",
                },
            },
            "url",
        ),
        idempotent=True,
    ),
    Tool(
        name="web_search",
        description="Searches the web; returns title, address and a passage of each page found, and its date if known.",
        config_schema=object_schema(
            {
                "max_results": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 20,
                    "default": 5,
                    "description": "Pages that are returned at most.",
                }
            }
        ),
        arguments_schema=object_schema(
            {
                "query": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 400,
                    "description": "What to search for, as one would type it. Example: EU battery regulation 2027.",
                }
            },
            "query",
        ),
        idempotent=True,
    ),
    Tool(
        name="http_request",
        description="Sends an HTTP request to an allowed origin; returns the answer, or what went wrong.",
        config_schema=object_schema(
            {
                "origins": _ORIGINS | {"description": "Origins that may be called. Example: https://api.example.com."},
                "read_only": {
                    "type": "boolean",
                    "default": True,
                    "description": "Whether only GET and HEAD are sent. Other methods are never sent twice: a "
                    "person is asked where the outcome of a call is unknown.",
                },
                "secret": {
                    "type": "string",
                    "pattern": r"^tools/http/[a-z0-9]+([/._-][a-z0-9]+)*$",
                    "maxLength": 128,
                    "description": "Name of the group's secret that is sent to the origins it belongs to, below "
                    "tools/http. Example: tools/http/orders.",
                },
                "secret_header": {
                    "type": "string",
                    "pattern": r"^[A-Za-z0-9-]{1,64}$",
                    "default": "authorization",
                    "description": "Header that the secret is sent in.",
                },
                "secret_prefix": {
                    "type": "string",
                    "maxLength": 32,
                    "default": "Bearer ",
                    "description": "What stands before the secret in that header.",
                },
            },
            "origins",
        ),
        arguments_schema=object_schema(
            {
                "method": {
                    "type": "string",
                    "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
                    "default": "GET",
                    "description": "What is asked for.",
                },
                "url": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 4096,
                    "description": "Address with its query. Example: https://api.example.com/orders?state=open.",
                },
                "headers": {
                    "type": "object",
                    "maxProperties": 16,
                    "additionalProperties": {"type": "string", "maxLength": 2000},
                    "description": "More headers; those that authenticate are set by the crew alone.",
                },
                "json": {"description": "Body as a JSON value; not together with text."},
                "text": {"type": "string", "maxLength": 1_000_000, "description": "Body as plain text."},
            },
            "url",
        ),
        idempotent=False,
        idempotent_setting="read_only",
    ),
)
