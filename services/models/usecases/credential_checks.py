"""Whether callers have the credentials that models are called with."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from services.common.identity.credentials import CredentialAvailability, Destination
from services.models.domain.model import Model, Provider
from services.models.providers.base import ModelProvider

_SECONDS = 1.0
_NOT_NEEDED = CredentialAvailability.NOT_NEEDED
_BEST = (
    CredentialAvailability.AVAILABLE,
    _NOT_NEEDED,
    CredentialAvailability.UNKNOWN,
    CredentialAvailability.MISSING,
)


class AvailabilitySource(Protocol):
    """Says whether the calling principal has a credential."""

    async def availability(
        self, destinations: Collection[Destination], seconds: float
    ) -> dict[Destination, CredentialAvailability]:
        """Return of each destination whether there is one; UNKNOWN where nobody says so within `seconds`."""
        ...


class CredentialChecks:
    """Asks auth once about all destinations of some models, and takes no answer for an answer."""

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
        asked = {place for places in destinations.values() for place in places if place is not None}
        found = await self._credentials.availability(asked, _SECONDS) if asked else {}

        def availability(place: Destination | None) -> CredentialAvailability:
            return _NOT_NEEDED if place is None else found[place]

        return {model_id: min(map(availability, places), key=_BEST.index) for model_id, places in destinations.items()}
