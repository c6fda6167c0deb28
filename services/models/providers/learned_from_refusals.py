"""What refusals of upstreams teach about models, so that the next call need not be refused again."""

import time
from typing import Generic, TypeVar

from services.common.cache import ExpiringCache
from services.common.grpc.call import current_principal
from services.models.domain.model import Model

T = TypeVar("T")

_MODELS = 10_000
# An upstream may take more tomorrow.
_SECONDS = 6 * 3600.0


class Learned(Generic[T]):
    """One fact for each group, model and address, kept for some hours; a change of the model forgets it."""

    def __init__(self) -> None:
        self._facts: ExpiringCache[tuple[object, ...], T] = ExpiringCache(_MODELS, time.monotonic)

    def get(self, model: Model) -> T | None:
        """Return what was learned about a model of the caller's group."""
        return self._facts.get(_key(model))

    def put(self, model: Model, fact: T) -> None:
        """Remember a fact about a model of the caller's group."""
        self._facts.put(_key(model), fact, time.monotonic() + _SECONDS)


def _key(model: Model) -> tuple[object, ...]:
    return current_principal().group_id, model.id, model.updated_at, model.spec.base_url
