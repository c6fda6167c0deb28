"""What use cases ask of other services."""

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from services.common.identity.group_limits import GroupLimits
from services.orchestrator.domain.crew import CrewSpec, KnowledgeMemory
from services.orchestrator.domain.execution import ExecutionIdentity, OnCredentialExpiry
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import ListedTool, ToolSource
from services.orchestrator.usecases.model_needs import Capability


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the models service knows of a model."""

    enabled: bool
    """Whether the caller's group may call it."""
    capabilities: frozenset[Capability]
    writes_freely: bool = True
    """Whether it can write what it is asked for; the packaged model only takes sentences out of texts."""
    priced: bool = True
    """Whether the cost of a call is known."""
    lacks_credential: bool = False
    """Whether it is known that the caller has no credential for it."""
    secret_name: str = ""
    """Name of the group's secret that can be the credential. Example: "llm/openai". Empty: that is not known."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What lets an execution act for its user or its group."""

    id: str
    identity: ExecutionIdentity
    """Whom it acts as; never UNSPECIFIED."""


class Models(Protocol):
    """The models service, asked on behalf of the current caller."""

    async def find(self, name: str) -> ModelInfo:
        """Return what the models service knows of a model, and whether the caller has a credential for it.

        Raises:
            NotFound: the caller's group does not have this model; the message lists similar names.
        """
        ...


class KnownMemories(Protocol):
    """What memories the caller's group has."""

    async def is_empty(self, memory: KnowledgeMemory) -> bool:
        """Return whether the caller's group has no records in a memory; False, too, where that cannot be found out."""
        ...


class Memories(KnownMemories, Protocol):
    """The memory service, asked on behalf of the current caller."""

    async def memory_id(self, spec: CrewSpec) -> str:
        """Return the id under which the memories of a crew of the caller's group are stored.

        Raises:
            Unavailable: the memory service cannot be asked.
        """
        ...

    async def copy(self, source_id: str, before: CrewSpec, target_id: str, after: CrewSpec) -> int:
        """Copy the memories of a crew to where it finds them after a change; return how many there were.

        Raises:
            CoxswainError: not all of them could be copied; repeating it copies each to the same place.
        """
        ...


class Grants(Protocol):
    """The grants auth keeps for executions."""

    async def create(self, execution_id: str, identity: ExecutionIdentity, expiry: OnCredentialExpiry) -> Grant:
        """Let an execution act for the current caller; repeating it returns the same grant."""
        ...

    async def renew(self, execution_id: str) -> None:
        """Attach the current caller's credential to the grant of their own execution.

        Raises:
            CoxswainError: another subject started the execution, or the caller has no credential to act with.
        """
        ...

    def acting(self, grant_id: str, execution_id: str) -> AbstractAsyncContextManager[GroupLimits]:
        """Make the calls of a block act under a grant, and return what its group is allowed.

        Raises:
            PermissionDenied: the grant was revoked, or its subject may not act any more.
        """
        ...

    async def revoke(self, execution_id: str) -> None:
        """Revoke a grant; one that has ended or never existed is not an error."""
        ...


@dataclass(frozen=True, slots=True)
class TestedCall:
    """How a call outside of an execution has ended: with a result, a failure, or unknown."""

    call_id: str
    text: str = ""
    """The result, or what was wrong when `is_error`."""
    structured_json: str = ""
    is_error: bool = False
    failure_reason: str = ""
    """ErrorReason of a call without a result; empty: it has one, or its end is unknown."""
    failure: str = ""
    temporary: bool = False
    made: bool = False
    """Whether a call that failed was made all the same, or may have been."""
    unknown: str = ""
    """What was seen of a call that may have had an effect; empty: its end is known."""
    replayed: bool = False
    """Whether it was made before, by an earlier request."""


class KnownSources(Protocol):
    """The sources of tools that groups have."""

    async def needed(self, group_id: str, names: Collection[str]) -> dict[str, ToolSource]:
        """Return the sources of the caller's group with these names, by name, with their tools as they were listed."""
        ...


class UnavailableTools(Protocol):
    """What keeps tools of the gateway's own from being used."""

    async def unavailable(self) -> dict[str, str]:
        """Return why tools of the gateway's own cannot be used by the caller's group now, by the tools' names.

        Nothing is said of tools of a gateway that does not answer.
        """
        ...


class ToolGateway(UnavailableTools, Protocol):
    """The tool gateway, asked on behalf of the current caller."""

    async def list_tools(self, source_id: str) -> list[ListedTool]:
        """Return the tools that a source of the caller's group lists now.

        Raises:
            CoxswainError: the source cannot be listed, or the gateway does not answer.
        """
        ...

    async def release(self) -> str | None:
        """Return the release of a gateway that serves, empty when it does not say; None when none serves."""
        ...

    async def test(
        self, call_id: str, tool: ResolvedTool, arguments: Mapping[str, Any], *, begun_before: bool
    ) -> TestedCall:
        """Make a call outside of an execution, once for each `call_id`, and return how it has ended.

        Raises:
            CoxswainError: the gateway does not answer, and has not made the call.
        """
        ...
