"""Rows of models."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Row, Select, and_, delete, exists, insert, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import ColumnElement

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import forget_requests
from services.common.errors import AlreadyExists, NotFound
from services.common.ids import new_id
from services.models.domain.model import SHARED_GROUP, Capabilities, Model, ModelKey, ModelSpec, Provider
from services.models.tables import disabled_models, models, requests


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a repeated request the same one."""

    subject: str
    method: str
    request_id: str
    request_hash: str


class ModelRepository(Protocol):
    """Models by group: a group sees its own and the shared ones it has not hidden behind its own of the same name."""

    async def find(self, group_id: str, key: ModelKey) -> Model | None:
        """Return the model a group means."""
        ...

    async def page(self, group_id: str, after: str, limit: int, *, enabled_only: bool) -> list[Model]:
        """Return models in the order of their names, from the first one after `after`."""
        ...

    async def names(self, group_id: str) -> list[str]:
        """Return the names of all models a group sees."""
        ...

    async def create(self, group_id: str, spec: ModelSpec, request: RequestKey | None) -> Model:
        """Add a model, or return what the same request has added before.

        Raises:
            AlreadyExists: the group has a model of that name, or the request_id came with another body.
            NotFound: what the request added has been deleted since.
        """
        ...

    async def change(self, group_id: str, key: ModelKey, alter: Callable[[ModelSpec], ModelSpec]) -> Model | None:
        """Replace the configuration of a group's own model; None when it has no such model."""
        ...

    async def delete(self, group_id: str, key: ModelKey) -> str | None:
        """Remove a group's own model and return its name; None when it has no such model."""
        ...

    async def set_enabled(self, group_id: str, model_id: str, *, enabled: bool) -> None:
        """Switch a model for a group."""
        ...

    async def forget_requests(self, before: datetime) -> int:
        """Forget the requests made before a time and return how many there were."""
        ...


class SqlModelRepository:
    """Models in SQL rows; see `ModelRepository`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, group_id: str, key: ModelKey) -> Model | None:
        """Return the model a group means."""
        async with self._database.read() as connection:
            row = (await connection.execute(_visible(group_id).where(_is(key)))).one_or_none()
        return None if row is None else _model(row)

    async def page(self, group_id: str, after: str, limit: int, *, enabled_only: bool) -> list[Model]:
        """Return one page."""
        query = _visible(group_id).where(models.c.name > after).order_by(models.c.name).limit(limit)
        if enabled_only:
            query = query.where(disabled_models.c.model_id.is_(null()))
        async with self._database.read() as connection:
            return [_model(row) for row in await connection.execute(query)]

    async def names(self, group_id: str) -> list[str]:
        """Return all names."""
        query = select(models.c.name).where(models.c.group_id.in_((group_id, SHARED_GROUP))).distinct()
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def create(self, group_id: str, spec: ModelSpec, request: RequestKey | None) -> Model:
        """Add a model."""
        now = utc_now()
        model_id = new_id()
        async with self._database.write() as connection:
            if request is not None and (earlier := await _earlier(connection, group_id, request)) is not None:
                query = _visible(group_id).where(models.c.id == earlier)
                row = (await connection.execute(query)).one_or_none()
                if row is None:
                    raise NotFound.of("model", spec.name)
                return _model(row)
            taken = select(models.c.id).where(models.c.group_id == group_id, models.c.name == spec.name)
            if (await connection.execute(taken)).one_or_none() is not None:
                raise AlreadyExists(
                    f'your group has a model "{spec.name}"; change it with UpdateModel or choose another name',
                    metadata={"resource": "model", "name": spec.name},
                )
            await connection.execute(
                insert(models).values(id=model_id, group_id=group_id, created_at=now, updated_at=now, **_columns(spec))
            )
            if request is not None:
                await connection.execute(
                    insert(requests).values(group_id=group_id, model_id=model_id, created_at=now, **asdict(request))
                )
        return Model(model_id, group_id, spec, enabled=True, created_at=now, updated_at=now)

    async def change(self, group_id: str, key: ModelKey, alter: Callable[[ModelSpec], ModelSpec]) -> Model | None:
        """Replace a configuration."""
        async with self._database.write() as connection:
            query = _visible(group_id).where(models.c.group_id == group_id, _is(key))
            row = (await connection.execute(query.with_for_update(of=models))).one_or_none()
            if row is None:
                return None
            model = _model(row)
            spec = alter(model.spec)
            now = utc_now()
            await connection.execute(
                update(models).where(models.c.id == model.id).values(updated_at=now, **_columns(spec))
            )
        return Model(model.id, group_id, spec, model.enabled, model.created_at, now)

    async def delete(self, group_id: str, key: ModelKey) -> str | None:
        """Remove a model."""
        removal = delete(models).where(models.c.group_id == group_id, _is(key)).returning(models.c.name)
        async with self._database.write() as connection:
            name: str | None = (await connection.execute(removal)).scalar_one_or_none()
        return name

    async def set_enabled(self, group_id: str, model_id: str, *, enabled: bool) -> None:
        """Switch a model."""
        switch = (disabled_models.c.group_id == group_id, disabled_models.c.model_id == model_id)
        async with self._database.write() as connection:
            # The model's row is held, so that two switches at once take turns.
            await connection.execute(select(models.c.id).where(models.c.id == model_id).with_for_update())
            await connection.execute(delete(disabled_models).where(*switch))
            if not enabled:
                await connection.execute(
                    insert(disabled_models).values(group_id=group_id, model_id=model_id, disabled_at=utc_now())
                )

    async def forget_requests(self, before: datetime) -> int:
        """Remove old requests."""
        return await forget_requests(self._database, requests, before)


async def replace_shared(connection: AsyncConnection, specs: Sequence[ModelSpec]) -> None:
    """Make the shared models those of a list: rows keep their ids, and what did not change is not touched."""
    rows = (await connection.execute(select(models).where(models.c.group_id == SHARED_GROUP))).all()
    present = {row.name: row for row in rows}
    now = utc_now()
    for spec in specs:
        row = present.pop(spec.name, None)
        if row is None:
            await connection.execute(
                insert(models).values(
                    id=new_id(), group_id=SHARED_GROUP, created_at=now, updated_at=now, **_columns(spec)
                )
            )
        elif _spec(row) != spec:
            await connection.execute(
                update(models).where(models.c.id == row.id).values(updated_at=now, **_columns(spec))
            )
    for row in present.values():
        await connection.execute(delete(models).where(models.c.id == row.id))


def _is(key: ModelKey) -> ColumnElement[bool]:
    return models.c.id == key.id if key.id else models.c.name == key.name


async def _earlier(connection: AsyncConnection, group_id: str, request: RequestKey) -> str | None:
    """Return the id of the model that the same request added before."""
    query = select(requests.c.request_hash, requests.c.model_id).where(
        requests.c.group_id == group_id,
        requests.c.subject == request.subject,
        requests.c.method == request.method,
        requests.c.request_id == request.request_id,
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    if row.request_hash != request.request_hash:
        raise AlreadyExists.request_id(request.request_id)
    return str(row.model_id)


def _visible(group_id: str) -> Select[Any]:
    """Select what a group sees: this is the only place that decides it."""
    own = models.alias("own")
    hidden = exists().where(own.c.group_id == group_id, own.c.name == models.c.name)
    sees: ColumnElement[bool] = or_(models.c.group_id == group_id, and_(models.c.group_id == SHARED_GROUP, ~hidden))
    switched_off = and_(disabled_models.c.model_id == models.c.id, disabled_models.c.group_id == group_id)
    return (
        select(models, disabled_models.c.disabled_at)
        .select_from(models.outerjoin(disabled_models, switched_off))
        .where(sees)
    )


def _columns(spec: ModelSpec) -> dict[str, Any]:
    columns = {field.name: getattr(spec, field.name) for field in fields(spec)}
    capabilities = [field.name for field in fields(Capabilities) if getattr(spec.capabilities, field.name)]
    return columns | {"provider": spec.provider.value, "capabilities": capabilities}


def _spec(row: Row[Any]) -> ModelSpec:
    columns = {field.name: getattr(row, field.name) for field in fields(ModelSpec)}
    capabilities = Capabilities(**dict.fromkeys(row.capabilities, True))
    return ModelSpec(**columns | {"provider": Provider(row.provider), "capabilities": capabilities})


def _model(row: Row[Any]) -> Model:
    return Model(
        id=row.id,
        group_id=row.group_id,
        spec=_spec(row),
        enabled=row.disabled_at is None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
