"""Rows of models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date
from typing import Any

from sqlalchemy import Select, and_, delete, exists, insert, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore, insert_missing
from services.common.ids import new_id
from services.common.resource_key import ResourceKey
from services.models.domain.model import SHARED_GROUP, Capabilities, Deployment, Fallbacks, Model, ModelSpec, Provider
from services.models.tables import disabled_models, models, usage_days

_OWN = models.alias("own")


class ModelRepository:
    """Models by group: a group sees its own and the shared ones it has not hidden behind its own of the same name."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, group_id: str, key: ResourceKey) -> Model | None:
        """Return a model that a group sees."""
        row = (await self._connection.execute(_visible(group_id).where(_is(key)))).mappings().one_or_none()
        return None if row is None else _model(row)

    async def find_own(self, group_id: str, key: ResourceKey) -> Model | None:
        """Return a group's own model and hold its row until the transaction ends."""
        query = _visible(group_id).where(models.c.group_id == group_id, _is(key)).with_for_update(of=models)
        row = (await self._connection.execute(query)).mappings().one_or_none()
        return None if row is None else _model(row)

    async def names(self, group_id: str) -> list[str]:
        """Return the names of all models a group sees."""
        query = select(models.c.name).where(models.c.group_id.in_((group_id, SHARED_GROUP))).distinct()
        return list((await self._connection.execute(query)).scalars())

    async def add(self, model: Model) -> bool:
        """Store a model; return False when its group has one of that name."""
        return await insert_ignore(self._connection, models, _row(model))

    async def update(self, model: Model) -> None:
        """Replace the configuration of a model."""
        await self._connection.execute(
            update(models)
            .where(models.c.id == model.id)
            .values(updated_at=model.updated_at, revision=model.revision, **_columns(model.spec))
        )

    async def delete(self, group_id: str, key: ResourceKey) -> str | None:
        """Remove a group's own model and return its name; None when it does not exist."""
        removal = delete(models).where(models.c.group_id == group_id, _is(key)).returning(models.c.name)
        name: str | None = (await self._connection.execute(removal)).scalar_one_or_none()
        return name

    async def set_enabled(self, group_id: str, model_id: str, *, enabled: bool) -> bool:
        """Enable or disable a model for a group, and return whether it is there."""
        # The model's row is held, so that two changes at once take turns.
        held = select(models.c.id).where(models.c.id == model_id).with_for_update()
        if (await self._connection.execute(held)).one_or_none() is None:
            return False
        disabled = (disabled_models.c.group_id == group_id, disabled_models.c.model_id == model_id)
        await self._connection.execute(delete(disabled_models).where(*disabled))
        if not enabled:
            await self._connection.execute(
                insert(disabled_models).values(group_id=group_id, model_id=model_id, disabled_at=utc_now())
            )
        return True

    async def replace_shared(self, specs: Sequence[ModelSpec]) -> None:
        """Make the shared models those of a list: rows keep their ids, and what did not change is not touched."""
        query = select(models).where(models.c.group_id == SHARED_GROUP)
        present = {row["name"]: row for row in (await self._connection.execute(query)).mappings()}
        now = utc_now()
        missing = []
        for spec in specs:
            row = present.pop(spec.name, None)
            if row is None:
                missing.append(Model(new_id(), SHARED_GROUP, spec, enabled=True, created_at=now, updated_at=now))
            elif _spec(row) != spec:
                revision = row["revision"] + 1
                await self.update(Model(row["id"], SHARED_GROUP, spec, True, row["created_at"], now, revision))
        if missing:
            await insert_missing(self._connection, models, list(map(_row, missing)))
        for row in present.values():
            await self._connection.execute(delete(models).where(models.c.id == row["id"]))


async def read_model(database: Database, group_id: str, name: str) -> Model | None:
    """Return the model of a name that a group sees.

    Every call of a model asks: as one statement it takes a quarter of the exchanges of a transaction.
    """
    rows = await database.fetch(_visible(group_id).where(models.c.name == name))
    return _model(rows[0]) if rows else None


async def read_models(database: Database, group_id: str, after: str, limit: int, *, enabled_only: bool) -> list[Model]:
    """Return models that a group sees in the order of their names, from the first one after `after`."""
    query = _visible(group_id).where(models.c.name > after).order_by(models.c.name).limit(limit)
    if enabled_only:
        query = query.where(disabled_models.c.model_id.is_(null()))
    return list(map(_model, await database.fetch(query)))


async def has_models_of(database: Database, provider: Provider, *, shared: bool) -> bool:
    """Return whether any group has a model of a provider; with `shared` those of all groups count too."""
    query = select(models.c.id).where(models.c.provider == provider.value).limit(1)
    return bool(await database.fetch(query if shared else query.where(models.c.group_id != SHARED_GROUP)))


async def has_called_models_of(database: Database, provider: Provider, *, since: date) -> bool:
    """Return whether a group has called a model of a provider that it still sees, since a day in UTC."""
    query = (
        select(usage_days.c.day)
        .join(
            models,
            and_(models.c.name == usage_days.c.model, models.c.group_id.in_([usage_days.c.group_id, SHARED_GROUP])),
        )
        .where(models.c.provider == provider.value, usage_days.c.day >= since.isoformat())
    )
    return bool(await database.fetch(query.limit(1)))


def _is(key: ResourceKey) -> ColumnElement[bool]:
    return models.c.id == key.id if key.id else models.c.name == key.name


def _visible(group_id: str) -> Select[Any]:
    """Select what a group sees: nothing else decides it."""
    hidden = exists().where(_OWN.c.group_id == group_id, _OWN.c.name == models.c.name)
    sees: ColumnElement[bool] = or_(models.c.group_id == group_id, and_(models.c.group_id == SHARED_GROUP, ~hidden))
    switched_off = and_(disabled_models.c.model_id == models.c.id, disabled_models.c.group_id == group_id)
    return (
        select(models, disabled_models.c.disabled_at)
        .select_from(models.outerjoin(disabled_models, switched_off))
        .where(sees)
    )


def _row(model: Model) -> dict[str, Any]:
    times = {"created_at": model.created_at, "updated_at": model.updated_at}
    return {"id": model.id, "group_id": model.group_id, "revision": model.revision, **times, **_columns(model.spec)}


def _columns(spec: ModelSpec) -> dict[str, Any]:
    columns = {field.name: getattr(spec, field.name) for field in fields(spec)}
    capabilities = [field.name for field in fields(Capabilities) if getattr(spec.capabilities, field.name)]
    return columns | {
        "provider": spec.provider.value,
        "capabilities": capabilities,
        "provider_options": dict(spec.provider_options),
        "unsupported_parameters": list(spec.unsupported_parameters),
        "fallbacks": {name: names for name, names in asdict(spec.fallbacks).items() if names},
        "deployments": [asdict(deployment) for deployment in spec.deployments],
    }


def _spec(row: Mapping[Any, Any]) -> ModelSpec:
    columns = {field.name: row[field.name] for field in fields(ModelSpec)}
    # A newer release may have stored what this one does not know.
    known = {field.name for field in fields(Capabilities)}
    capabilities = Capabilities(**dict.fromkeys(known.intersection(row["capabilities"]), True))
    return ModelSpec(
        **columns
        | {
            "provider": Provider(row["provider"]),
            "capabilities": capabilities,
            "unsupported_parameters": tuple(row["unsupported_parameters"]),
            "fallbacks": Fallbacks(**{reason: tuple(names) for reason, names in row["fallbacks"].items()}),
            "deployments": tuple(Deployment(**deployment) for deployment in row["deployments"]),
        }
    )


def _model(row: Mapping[Any, Any]) -> Model:
    return Model(
        id=row["id"],
        group_id=row["group_id"],
        spec=_spec(row),
        enabled=row["disabled_at"] is None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        revision=row["revision"],
    )
