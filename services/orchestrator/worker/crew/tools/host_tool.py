"""Tools that the host calls: here are only their looks, and their arguments on the way to the host."""

import contextvars
import copy
import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

from crewai.hooks.dispatch import HookAborted
from crewai.tools import BaseTool
from crewai.tools.tool_failure import ToolFailure
from pydantic import BaseModel, ConfigDict, PrivateAttr

from coxswain.orchestrator.worker.link_pb2 import AgentTool, CallTool
from services.orchestrator.worker.crew.tools.base import call_key, failure

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.attempt import TaskAttempt

_NO_PROPERTIES: dict[str, Any] = {"type": "object"}

# CrewAI counts what a tool has said right after the call, in the same context.
_polled: contextvars.ContextVar[bool] = contextvars.ContextVar("coxswain_polled_tool", default=False)


class RepeatedCalls(dict[int, int]):
    """How often tools have said the same, as CrewAI counts it, without those that are asked until something changes.

    That nothing has changed is no sign of an agent that makes no progress.
    """

    def __setitem__(self, call: int, count: int) -> None:
        """Take note of a call that was made just now."""
        if not _polled.get():
            super().__setitem__(call, count)
        _polled.set(False)

    def __missing__(self, call: int) -> int:
        """Return the count of what is not counted."""
        return 0


class AnyArguments(BaseModel):
    """Takes every argument as it is: a model of pydantic's own making would convert, drop and fill in."""

    model_config = ConfigDict(extra="allow")
    described: ClassVar[dict[str, Any]] = _NO_PROPERTIES

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the schema of the tool's source to whoever describes the tool.

        Without options CrewAI asks, to drop the arguments that are not among the properties: it is told of none.
        """
        return copy.deepcopy(cls.described if args or options else _NO_PROPERTIES)


class HostTool(BaseTool):
    """A tool that the host calls, in one attempt at a task."""

    _attempt: Any = PrivateAttr()
    _tool: Any = PrivateAttr()

    @classmethod
    def build(cls, tool: AgentTool, attempt: "TaskAttempt") -> Self:
        """Return the tool as its source describes it."""
        built = cls(
            name=tool.model_name,
            description=tool.description,
            args_schema=_arguments(json.loads(tool.arguments_schema_json)),
            # What the world says now is not what it said before.
            cache_function=_never,
        )
        built._attempt = attempt
        built._tool = tool
        return built

    # The first parameters have no names that an argument could have.
    def run(self, /, *_args: Any, **arguments: Any) -> Any:
        """Call the tool with the arguments as they are."""
        return self._run(**arguments)

    def _run(self, /, **arguments: Any) -> str | ToolFailure:
        attempt: TaskAttempt = self._attempt
        tool: AgentTool = self._tool
        _polled.set(tool.polled)
        try:
            text = json.dumps(arguments, allow_nan=False)
        except ValueError:
            return failure("the arguments must be JSON, which has no NaN and no Infinity")
        request = CallTool(
            key=call_key(attempt, tool.name, arguments),
            tool=tool.id,
            arguments_json=text,
            agent_role=attempt.agent_role,
            agent_text=attempt.agent_text,
        )
        try:
            answer = attempt.host.call_tool(request)
        except HookAborted:
            if not attempt.waits_for_person:
                raise
            # The next question to a model ends the attempt. CrewAI would make a call in words again that has raised.
            return failure("a person is asked first")
        return failure(answer.error) if answer.error else answer.output


def _arguments(schema: dict[str, Any]) -> type[AnyArguments]:
    class Arguments(AnyArguments):
        described: ClassVar[dict[str, Any]] = schema

    return Arguments


def _never(_arguments: Any, _outcome: Any) -> bool:
    return False
