"""Tools for Databricks. They reach the workspace that the caller's credential of the general chain belongs to."""

from typing import Any

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

_WAREHOUSE: dict[str, Any] = {
    "warehouse_id": {
        "type": "string",
        "minLength": 1,
        "maxLength": 128,
        "description": "Id of the SQL warehouse that runs it.",
    },
    "catalog": {"type": "string", "maxLength": 255, "description": "Catalog of names without one."},
    "schema": {"type": "string", "maxLength": 255, "description": "Schema of names without one."},
    "row_limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10_000,
        "default": 1000,
        "description": "Rows of a result; more are left out, and the result says so.",
    },
    "byte_limit": {
        "type": "integer",
        "minimum": 1024,
        "maximum": 16 * 1024 * 1024,
        "default": 1024 * 1024,
        "description": "Bytes of a result; more are left out, and the result says so.",
    },
}
_VALUE: dict[str, Any] = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        object_schema(
            {
                "value": {"type": ["string", "number", "boolean", "null"]},
                "type": {
                    "type": "string",
                    "pattern": r"^[A-Z_]{1,32}(\([0-9]{1,3}(,[0-9]{1,3})?\))?$",
                    "description": "SQL type. Examples: DATE, TIMESTAMP, DECIMAL(10,2).",
                },
            },
            "value",
            "type",
        ),
    ]
}
_NAME = "^[A-Za-z_][A-Za-z0-9_]{0,254}$"
_FILTERS: dict[str, Any] = {
    "type": "object",
    "maxProperties": 32,
    "additionalProperties": {
        "anyOf": [
            {"type": ["string", "number", "boolean"]},
            {"type": "array", "items": {"type": ["string", "number", "boolean"]}, "minItems": 1, "maxItems": 1000},
        ]
    },
}

TOOLS = (
    Tool(
        name="databricks_sql",
        description=(
            "Runs one SQL statement in Databricks and returns its rows. Write values as :name and give them in "
            "parameters."
        ),
        config_schema=object_schema(
            {
                **_WAREHOUSE,
                "read_only": {
                    "type": "boolean",
                    "default": True,
                    "description": (
                        "Whether only one SELECT, WITH, SHOW, DESCRIBE or EXPLAIN is accepted. Otherwise a statement "
                        "whose outcome is not known is never run again without asking."
                    ),
                },
            },
            "warehouse_id",
        ),
        arguments_schema=object_schema(
            {
                "statement": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 64_000,
                    "description": "The statement. Example: SELECT name FROM main.sales.customers WHERE city = :city",
                },
                "parameters": {
                    "type": "object",
                    "propertyNames": {"pattern": _NAME},
                    "additionalProperties": _VALUE,
                    "maxProperties": 100,
                    "description": 'Values by the names in the statement. Example: {"city": "Bern"}',
                },
            },
            "statement",
        ),
        idempotent=True,
        idempotent_setting="read_only",
    ),
    Tool(
        name="databricks_uc_function",
        description="Calls a function of Unity Catalog in Databricks and returns its value or rows.",
        config_schema=object_schema(
            {
                **_WAREHOUSE,
                "function": {
                    "type": "string",
                    "pattern": r"^[^.\s][^.]{0,254}\.[^.]{1,255}\.[^.]{1,255}$",
                    "description": "Catalog, schema and name, joined by dots. Example: main.tools.distance",
                },
                "returns_table": {
                    "type": "boolean",
                    "default": False,
                    "description": "Whether the function returns rows instead of a value.",
                },
                "repeatable": {
                    "type": "boolean",
                    "default": False,
                    "description": (
                        "Whether calling the function twice does no harm. Otherwise a call whose outcome is not known "
                        "is never made again without asking."
                    ),
                },
            },
            "function",
            "warehouse_id",
        ),
        arguments_schema=object_schema(
            {
                "arguments": {
                    "type": "object",
                    "propertyNames": {"pattern": _NAME},
                    "additionalProperties": _VALUE,
                    "maxProperties": 100,
                    "description": 'Arguments by the names of the function\'s parameters. Example: {"city": "Bern"}',
                }
            }
        ),
        idempotent=False,
        idempotent_setting="repeatable",
    ),
    Tool(
        name="databricks_genie",
        description=(
            "Asks a Genie space of Databricks a question about its data. Returns words, its SQL and rows, "
            "and a conversation_id for further questions."
        ),
        config_schema=object_schema(
            {
                "space_id": {
                    "type": "string",
                    "pattern": "^[A-Za-z0-9_-]{1,128}$",
                    "description": "Id of the space.",
                },
                "row_limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 5000,
                    "default": 100,
                    "description": "Rows of each query; more are left out, and the result says so.",
                },
            },
            "space_id",
        ),
        arguments_schema=object_schema(
            {
                "question": {"type": "string", "minLength": 1, "maxLength": 10_000, "description": "The question."},
                "conversation_id": {
                    "type": "string",
                    "pattern": "^[A-Za-z0-9_-]{0,128}$",
                    "default": "",
                    "description": "Conversation to go on with, as an earlier answer named it. Empty begins one.",
                },
            },
            "question",
        ),
        idempotent=True,
    ),
    Tool(
        name="databricks_vector_search",
        description="Finds the rows of a Databricks Vector Search index that fit a text best.",
        config_schema=object_schema(
            {
                "index": {
                    "type": "string",
                    "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
                    "maxLength": 256,
                    "description": "Full name of the index. Example: main.docs.handbook",
                },
                "columns": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 255},
                    "minItems": 1,
                    "maxItems": 50,
                    "uniqueItems": True,
                    "description": "Columns that are returned.",
                },
                "query_type": {
                    "type": "string",
                    "enum": ["ANN", "HYBRID", "FULL_TEXT"],
                    "default": "HYBRID",
                    "description": "By meaning, by meaning and words, or by words. ANN needs an index with a model.",
                },
                "num_results": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 200,
                    "default": 5,
                    "description": "Number of rows when the model names none.",
                },
                "score_threshold": {"type": "number", "description": "Least score of a row."},
                "filters": {**_FILTERS, "description": "Conditions of every search, which no model can lift."},
                "rerank_columns": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": 255},
                    "maxItems": 10,
                    "description": "Columns that the reranker of Databricks reads; empty: it is not used.",
                },
                "storage_optimized": {
                    "type": "boolean",
                    "default": False,
                    "description": "Whether its endpoint is a storage-optimized one, whose filters differ.",
                },
            },
            "columns",
            "index",
        ),
        arguments_schema=object_schema(
            {
                "query": {"type": "string", "minLength": 1, "maxLength": 32_000, "description": "What is looked for."},
                "num_results": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 200,
                    "description": "Number of rows.",
                },
                "filters": {
                    **_FILTERS,
                    "description": (
                        "Conditions that all hold, by column, or by column and one of NOT, LIKE, <, <=, >, >=. "
                        'Example: {"language": ["de", "en"], "year >=": 2024}'
                    ),
                },
            },
            "query",
        ),
        idempotent=True,
    ),
    Tool(
        name="databricks_job_run",
        description=(
            "Runs a job of Databricks, waits for its end, and returns its state and the output of its last task."
        ),
        config_schema=object_schema(
            {"job_id": {"type": "integer", "minimum": 1, "maximum": 2**53, "description": "Id of the job."}}, "job_id"
        ),
        arguments_schema=object_schema(
            {
                "parameters": {
                    "type": "object",
                    "additionalProperties": {"type": ["string", "number", "boolean"]},
                    "maxProperties": 100,
                    "description": "Values of the job's parameters, by name.",
                }
            }
        ),
        # Each call has its token at the workspace, which starts one run for it however often it is made.
        idempotent=True,
        acts=True,
    ),
)
