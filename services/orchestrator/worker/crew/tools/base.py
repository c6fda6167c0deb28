"""What every tool of ours does besides its work: its calls are journaled by the host.

A task that is done again after a crash asks for the same calls again. One that has a result gets it back without
running. One that was begun and has none runs again only if the tool is idempotent; else the task ends: whether it has
done its work is unknown.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

from crewai.tools import BaseTool
from crewai.tools.tool_failure import ToolFailure
from pydantic import PrivateAttr

from services.orchestrator.domain.tool import Tool

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.attempt import TaskAttempt


class ToolFailed(Exception):
    """A tool could not do what it was asked; the model reads why and may try otherwise."""


class JournaledTool(BaseTool):
    """A tool of the catalogue in one attempt at a task."""

    _attempt: Any = PrivateAttr()
    _config: dict[str, Any] = PrivateAttr(default_factory=dict)
    _idempotent: bool = PrivateAttr(default=False)

    @classmethod
    def build(cls, tool: Tool, config: dict[str, Any], attempt: "TaskAttempt", arguments: type[Any]) -> Self:
        """Return the tool as the catalogue describes it, with a crew's settings; `arguments` is a pydantic model."""
        built = cls(
            name=tool.name,
            description=tool.description,
            args_schema=arguments,
            cache_function=_is_worth_keeping,
        )
        built._attempt = attempt
        built._config = config
        built._idempotent = tool.idempotent
        return built

    @abstractmethod
    def perform(self, **arguments: Any) -> str:
        """Do the work and return what the model reads.

        Raises:
            ToolFailed: it cannot be done with these arguments.
        """

    def _run(self, **arguments: Any) -> str | ToolFailure:
        attempt: TaskAttempt = self._attempt
        key = call_key(attempt, self.name, arguments)
        permission = attempt.host.begin_tool(key, self.name, idempotent=self._idempotent)
        if permission.done:
            return _outcome(permission.output, permission.error)
        output, error = "", ""
        try:
            output = self.perform(**arguments)
        except ToolFailed as failure:
            error = str(failure) or "it failed without saying why"
        except Exception as failure:  # noqa: BLE001 - the model reads it, as with CrewAI, but it is journaled first
            error = f"{type(failure).__name__}: {failure}"
        attempt.host.end_tool(
            key,
            self.name,
            idempotent=self._idempotent,
            output=output,
            error=error,
            argument_bytes=len(json.dumps(arguments, default=str)),
        )
        return _outcome(output, error)


def call_key(attempt: "TaskAttempt", tool: str, arguments: Mapping[str, Any]) -> str:
    """Return what tells a call apart from all others of its task, and is the same on every attempt at it."""
    canonical = json.dumps([tool, arguments], sort_keys=True, default=str)
    digest = sha256(canonical.encode()).hexdigest()
    return f"{digest}.{attempt.occurrences.take(digest)}"


def failure(error: str) -> ToolFailure:
    """Return what the model reads of a call that failed.

    CrewAI calls a tool up to six times that raises an exception and was asked for in words.
    """
    return ToolFailure(message=f"Error executing tool: {error}")


def _outcome(output: str, error: str) -> str | ToolFailure:
    return failure(error) if error else output


def _is_worth_keeping(_arguments: Any, outcome: Any) -> bool:
    return not isinstance(outcome, ToolFailure)
