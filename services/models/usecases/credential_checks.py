"""Whether callers have the credentials that models are called with."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.common.errors import CoxswainError
from services.common.identity.credentials import CredentialAvailability
from services.models.domain.model import Model, Provider
from services.models.providers.base import Destination, ModelProvider

_SECONDS = 1.0
_AT_ONCE = 8
_BEST = (
    CredentialAvailability.AVAILABLE,
    CredentialAvailability.NOT_NEEDED,
    CredentialAvailability.UNKNOWN,
    CredentialAvailability.MISSING,
)


class AvailabilitySource(Protocol):
    """Says whether the calling principal has a credential."""

    async def availability(self, origin: str, provider: str = "") -> CredentialAvailability:
        """Return whether there is one for a destination.

        Raises:
            CoxswainError: nobody can be asked.
        """
        ...


class CredentialChecks:
    """Asks auth once for each destination of some models, and takes no answer for an answer."""

    def __init__(self, credentials: AvailabilitySource, providers: Mapping[Provider, ModelProvider]) -> None:
        self._credentials = credentials
        self._providers = providers

    async def check(self, models: Sequence[Model]) -> dict[str, CredentialAvailability]:
        """Return by model id whether the calling principal has the credential that the model is called with.

        It takes a second at most; what auth has not said by then is UNKNOWN. Of several deployments, one with a
        credential is enough.
        """
        destinations = {
            model.id: [self._providers[model.spec.provider].destination(place) for place in model.places]
            for model in models
        }
        found: dict[Destination | None, CredentialAvailability] = {None: CredentialAvailability.NOT_NEEDED}
        slots = asyncio.Semaphore(_AT_ONCE)

        async def ask(destination: Destination) -> None:
            async with slots:
                with contextlib.suppress(CoxswainError):
                    found[destination] = await self._credentials.availability(destination.origin, destination.provider)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as asking:
                for destination in {place for places in destinations.values() for place in places} - found.keys():
                    if destination is not None:
                        asking.create_task(ask(destination))
        return {
            model_id: min((found.get(place, CredentialAvailability.UNKNOWN) for place in places), key=_BEST.index)
            for model_id, places in destinations.items()
        }
