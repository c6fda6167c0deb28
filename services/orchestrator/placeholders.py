"""The `{placeholders}` of a crew's texts."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from services.orchestrator.domain.crew import CrewSpec

# What crewai takes for a placeholder; any other brace is text, JSON for instance.
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_\-]*)\}")


def placeholders(text: str) -> list[str]:
    """Return the names in `text`, each once, in the order they appear."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def interpolate(text: str, inputs: Mapping[str, Any]) -> str:
    """Return `text` with its placeholders filled in. Braces within an input stay as they are.

    Strings stand as themselves, everything else as JSON.

    Raises:
        KeyError: an input is missing.
    """

    def value(match: re.Match[str]) -> str:
        given = inputs[match[1]]
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)

    return _PLACEHOLDER.sub(value, text)


def texts_with_placeholders(spec: CrewSpec) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every field of a crew that inputs are filled into."""
    for index, agent in enumerate(spec.agents):
        for field in ("role", "goal", "backstory"):
            yield f"spec.agents[{index}].{field}", getattr(agent, field)
    for index, task in enumerate(spec.tasks):
        for field in ("description", "expected_output", "output_file"):
            yield f"spec.tasks[{index}].{field}", getattr(task, field)
        if task.approval is not None:
            yield f"spec.tasks[{index}].approval.question", task.approval.question


def required_inputs(spec: CrewSpec) -> dict[str, str]:
    """Return every input a crew needs and the path of the first field that needs it."""
    needed: dict[str, str] = {}
    for path, text in texts_with_placeholders(spec):
        for name in placeholders(text):
            needed.setdefault(name, path)
    return needed
