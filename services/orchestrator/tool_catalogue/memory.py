"""Tools that look things up in memories. What they do is in `worker/host/host_tools`."""

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

_QUERY = {
    "type": "string",
    "minLength": 1,
    "maxLength": 4000,
    "description": "What to look for, in words. Example: who keeps the lighthouse",
}
_LIMIT = {
    "type": "integer",
    "minimum": 1,
    "maximum": 20,
    "default": 5,
    "description": "How many results at most.",
}

TOOLS = (
    Tool(
        name="memory_search",
        description="Searches what this crew remembers from its earlier work, by meaning.",
        config_schema=object_schema({}),
        arguments_schema=object_schema({"query": _QUERY, "limit": _LIMIT}, "query"),
        idempotent=True,
        in_host=True,
    ),
    Tool(
        name="document_search",
        description="Searches the documents of the company, by meaning, and returns the parts that fit best, "
        "with the document, section and page of each.",
        config_schema=object_schema(
            {
                "memory_id": {
                    "type": "string",
                    "maxLength": 128,
                    "default": "",
                    "description": "The memory_id of the records; empty for documents, which are the group's.",
                },
                "kind": {
                    "type": "string",
                    "enum": ["document", "unified", "short_term", "long_term", "entity"],
                    "default": "document",
                    "description": "The kind of the records.",
                },
                "scope": {
                    "type": "string",
                    "maxLength": 512,
                    "default": "",
                    "description": "For unified records: only those of this scope and of all scopes below it.",
                },
                "document_ids": {
                    "type": "array",
                    "maxItems": 100,
                    "items": {"type": "string", "minLength": 1, "maxLength": 200},
                    "default": [],
                    "description": "For documents: only the parts of these; empty for all documents.",
                },
            }
        ),
        arguments_schema=object_schema(
            {
                "query": _QUERY,
                "limit": _LIMIT,
                "metadata": {
                    "type": "object",
                    "maxProperties": 8,
                    "additionalProperties": {"type": ["string", "number", "boolean"]},
                    "description": 'Keys of metadata and the value that each must have. Example: {"year": 2026}',
                },
            },
            "query",
        ),
        idempotent=True,
        in_host=True,
    ),
)
