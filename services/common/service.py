"""What every service offers to the process that runs it."""

from collections.abc import Callable
from typing import Protocol

from services.common.grpc.group_traffic import TrafficShare
from services.common.grpc.server import Registry
from services.common.identity.access_changes import AccessChangeSource
from services.common.identity.authenticator import TokenExchanger
from services.common.identity.principal_token import KeySource


class Service(Protocol):
    """One service, built by its `build(settings, runtime)`."""

    def register(self, registry: Registry) -> None:
        """Register its servicers."""
        ...

    async def start(self) -> None:
        """Start background work; the listeners open afterwards."""
        ...

    async def drain(self) -> None:
        """Take on nothing new and end streams that others can continue; running calls continue."""
        ...

    async def close(self) -> None:
        """Release everything; no call runs any more."""
        ...


class IdentityProvider(TokenExchanger, KeySource, AccessChangeSource, TrafficShare, Protocol):
    """What auth offers to the process it runs in, and its stub to all others."""

    def on_changed_limits(self, act: Callable[[str], None]) -> None:
        """Have `act` called with the id of each group whose limits this process changes."""
        ...
