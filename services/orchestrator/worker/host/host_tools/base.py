"""What a tool of the host is given, and how it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.tool_gateway_client import CallListener

_NOTE_BYTES = 256
_LEAST_BYTES = 64


@dataclass(frozen=True, slots=True)
class HostToolCall:
    """One call, whose arguments follow the tool's schema."""

    call_id: str
    task: TaskRef
    agent_role: str
    """Of the agent that calls, inputs filled in."""
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
    """The crew's settings of the tool."""
    result_limit: int
    """Bytes that the model gets at once."""
    listener: CallListener

    def page(self, text: str) -> str:
        """Return as much of a text as the model gets with a note after it."""
        return text.encode()[: max(_LEAST_BYTES, self.result_limit - _NOTE_BYTES)].decode(errors="ignore")


class HostToolError(Exception):
    """The tool cannot do what it was asked. The model reads why and may ask otherwise."""


class HostTool(Protocol):
    """A tool that may be called twice without harm: a call whose host dies is made again by the next one."""

    async def call(self, call: HostToolCall) -> str:
        """Return what the model reads.

        Raises:
            HostToolError: it cannot be done.
            LeftWaiting: a person has to answer first.
            CoxswainError: another service refused or is absent.
        """
        ...
