"""What use cases ask of other services."""

from dataclasses import dataclass
from typing import Protocol

from services.orchestrator.domain.execution import ExecutionIdentity, OnCredentialExpiry
from services.orchestrator.usecases.model_needs import Capability


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the models service knows of a model."""

    enabled: bool
    """Whether the caller's group may call it."""
    capabilities: frozenset[Capability]


@dataclass(frozen=True, slots=True)
class Grant:
    """What lets an execution act for somebody."""

    id: str
    identity: ExecutionIdentity
    """Whom it acts as; never UNSPECIFIED."""


class Models(Protocol):
    """The models service, asked on behalf of the current caller."""

    async def find(self, name: str) -> ModelFacts:
        """Return what there is to know of a model.

        Raises:
            NotFound: the caller's group has no such model; the message lists near names.
        """
        ...


class Grants(Protocol):
    """The grants auth keeps for executions."""

    async def open(self, execution_id: str, identity: ExecutionIdentity, expiry: OnCredentialExpiry) -> Grant:
        """Let an execution act for the current caller; repeating it returns the same grant."""
        ...

    async def renew(self, execution_id: str) -> None:
        """Attach the current caller's credential to the grant of their own execution.

        Raises:
            CoxswainError: the execution is somebody else's, or the caller has no credential that can stand for them.
        """
        ...

    async def issue(self, grant_id: str, execution_id: str) -> str:
        """Return a principal token that acts under a grant. A secret.

        Raises:
            PermissionDenied: the grant was revoked, or who gave it may not act any more.
        """
        ...

    async def close(self, execution_id: str) -> None:
        """Revoke a grant; one that has ended or never was is no failure."""
        ...
