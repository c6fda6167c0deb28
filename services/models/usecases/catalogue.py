"""Looking up a group's model by its name, with a short memory."""

import difflib

from services.common.cache import AsyncCache
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, NotFound
from services.common.resource_key import ResourceKey
from services.models.domain.model import Model
from services.models.price_list import complete_model
from services.models.repositories.models import ModelRepository, read_model

_CACHE_SIZE = 10_000
_NEAR_NAMES = 5


class Catalogue:
    """Finds models, and remembers them for a short time by group and name."""

    def __init__(self, database: Database, max_age: float) -> None:
        """`max_age` is in seconds; 0 remembers nothing, which is right where other processes change rows."""
        self._database = database
        self._cache = AsyncCache[tuple[str, str], Model](_CACHE_SIZE, max_age) if max_age else None

    async def find(self, group_id: str, name: str) -> Model:
        """Return the model.

        Raises:
            NotFound: the group has no model of that name; the message suggests similar ones.
        """
        if self._cache is None:
            return await self._read(group_id, name)
        return await self._cache.get((group_id, name), lambda: self._read(group_id, name))

    async def find_enabled(self, group_id: str, name: str) -> Model:
        """Return the model if the group may call it.

        Raises:
            NotFound: the group has no model of that name.
            FailedPrecondition: the group has disabled it.
        """
        model = await self.find(group_id, name)
        if not model.enabled:
            raise FailedPrecondition(
                f'the model "{name}" is disabled for your group; an admin of it can enable it with SetModelEnabled',
                reason="MODEL_DISABLED",
                metadata={"model": name},
            )
        return model

    def forget(self, group_id: str, name: str) -> None:
        """Read the model anew the next time."""
        if self._cache is not None:
            self._cache.forget((group_id, name))

    async def _read(self, group_id: str, name: str) -> Model:
        model = await read_model(self._database, group_id, name)
        if model is None:
            async with self._database.read() as connection:
                raise await model_not_found(ModelRepository(connection), group_id, ResourceKey(name=name))
        return complete_model(model)


async def model_not_found(models: ModelRepository, group_id: str, key: ResourceKey) -> NotFound:
    """Return the failure to find a model of a group; it suggests similar names."""
    by_key = {known.lower(): known for known in await models.names(group_id)}
    matches = difflib.get_close_matches(str(key).lower(), by_key, n=_NEAR_NAMES, cutoff=0.6)
    quoted = " or ".join(f'"{by_key[match]}"' for match in matches)
    meant = f'"{key.name}"' if key.name else f'with the id "{key.id}"'
    if quoted:
        hint = f"did you mean {quoted}?" if key.name else f"did you mean the name {quoted}? Send it as name"
    else:
        hint = "ListModels lists the models it can use"
    return NotFound(
        f"your group has no model {meant}; {hint}", reason="MODEL_NOT_FOUND", metadata={"model": key.name or key.id}
    )
