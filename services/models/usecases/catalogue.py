"""Which model a group means by a name, fast."""

import difflib
import time

from services.common.errors import FailedPrecondition, NotFound
from services.models.domain.model import Model, ModelKey
from services.models.repositories.models import ModelRepository

_CACHE_SIZE = 10_000
_NEAR_NAMES = 5


class Catalogue:
    """Finds models, and remembers them for a short time by group and name."""

    def __init__(self, repository: ModelRepository, max_age: float) -> None:
        """`max_age` is in seconds; 0 remembers nothing, which is right where other processes change rows."""
        self._repository = repository
        self._max_age = max_age
        self._cache: dict[tuple[str, str], tuple[float, Model]] = {}
        self._generation = 0

    async def find(self, group_id: str, name: str) -> Model:
        """Return the model.

        Raises:
            NotFound: the group sees none of that name; the message lists near ones.
        """
        entry = self._cache.get((group_id, name))
        if entry is not None and entry[0] > time.monotonic():
            return entry[1]
        generation = self._generation
        model = await self._repository.find(group_id, ModelKey(name=name))
        if model is None:
            raise await self._not_found(group_id, name)
        # What was read before a change may be what was changed.
        if self._max_age and generation == self._generation:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[group_id, name] = (time.monotonic() + self._max_age, model)
        return model

    async def find_enabled(self, group_id: str, name: str) -> Model:
        """Return the model if the group may call it.

        Raises:
            NotFound: the group sees none of that name.
            FailedPrecondition: the group has switched it off.
        """
        model = await self.find(group_id, name)
        if not model.enabled:
            raise FailedPrecondition(
                f'the model "{name}" is disabled for your group; an admin of it can switch it on with SetModelEnabled',
                reason="MODEL_DISABLED",
                metadata={"model": name},
            )
        return model

    def forget(self, group_id: str, name: str) -> None:
        """Read the model anew the next time."""
        self._generation += 1
        self._cache.pop((group_id, name), None)

    async def _not_found(self, group_id: str, name: str) -> NotFound:
        names = await self._repository.names(group_id)
        by_key = {known.lower(): known for known in names}
        near = [by_key[key] for key in difflib.get_close_matches(name.lower(), by_key, n=_NEAR_NAMES, cutoff=0.6)]
        quoted = " or ".join(f'"{known}"' for known in near)
        hint = f"did you mean {quoted}?" if near else "ListModels shows those there are."
        return NotFound(
            f'there is no model "{name}" for your group; {hint}', reason="MODEL_NOT_FOUND", metadata={"model": name}
        )
