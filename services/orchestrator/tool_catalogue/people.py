"""A tool that asks people. What it does is in `worker/host/host_tools`."""

from services.orchestrator.domain.tool import Tool
from services.orchestrator.tool_catalogue.schemas import object_schema

TOOLS = (
    Tool(
        name="ask_person",
        description=(
            "Asks the people who watch this work a question and waits for the answer, which may take hours. For what "
            "only a person can know or decide."
        ),
        config_schema=object_schema({}),
        arguments_schema=object_schema(
            {
                "question": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 4000,
                    "description": "The question, with all that is needed to answer it.",
                },
                "choices": {
                    "type": "array",
                    "minItems": 2,
                    "maxItems": 20,
                    "uniqueItems": True,
                    "items": {"type": "string", "minLength": 1, "maxLength": 200},
                    "description": "The answers to choose from; left out, any text is an answer.",
                },
            },
            "question",
        ),
        idempotent=True,
        in_host=True,
    ),
)
