"""The models every group sees, from a file to their rows: `make seed` and every start that migrates.

The file is complete: repeating it changes nothing, and models that it no longer lists are removed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from sqlalchemy import text

from services.common.db.database import Database
from services.common.environment import read_settings
from services.models.domain.model import Capabilities, Deployment, Fallbacks, ModelSpec, Provider
from services.models.domain.provider_options import wrong_options
from services.models.repositories.models import ModelRepository
from services.models.settings import ModelsSettings

# As in the proto.
_MOST_COST = 1_000_000
_CAPABILITIES = tuple(field.name for field in fields(Capabilities))


class SeedError(Exception):
    """The file cannot be used; the message names the entry and what is wrong with it."""


class _Fallbacks(BaseModel):
    model_config = ConfigDict(extra="forbid")

    on_outage: tuple[str, ...] = ()
    on_context_window: tuple[str, ...] = ()
    on_content_filter: tuple[str, ...] = ()


class _Deployment(BaseModel):
    model_config = ConfigDict(extra="forbid")

    base_url: str = Field("", max_length=512, pattern=r"^(https?://\S+)?$")
    upstream_model: str = Field("", max_length=256)
    weight: int = Field(0, ge=0, le=1000)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)
    provider: Provider
    description: str = Field("", max_length=1000)
    upstream_model: str = Field("", max_length=256)
    base_url: str = Field("", max_length=512, pattern=r"^(https?://\S+)?$")
    capabilities: Capabilities = Capabilities()
    context_window: int = Field(0, ge=0)
    max_input_tokens: int = Field(0, ge=0)
    max_output_tokens: int = Field(0, ge=0)
    embedding_dimension: int = Field(0, ge=0, le=8192)
    max_texts_per_request: int = Field(0, ge=0, le=2048)
    temperature: float | None = Field(None, ge=0, le=2)
    provider_options: dict[str, str] = {}
    input_cost_per_million_tokens: float | None = Field(None, ge=0, le=_MOST_COST)
    output_cost_per_million_tokens: float | None = Field(None, ge=0, le=_MOST_COST)
    cached_input_cost_per_million_tokens: float | None = Field(None, ge=0, le=_MOST_COST)
    cache_write_cost_per_million_tokens: float | None = Field(None, ge=0, le=_MOST_COST)
    keep_think_tags: bool = False
    unsupported_parameters: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], ...] = ()

    fallbacks: _Fallbacks = _Fallbacks()
    deployments: tuple[_Deployment, ...] = Field((), max_length=16)

    @field_validator("capabilities", mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        if not isinstance(value, list) or any(name not in _CAPABILITIES for name in value):
            raise ValueError(f"must be a list of some of {', '.join(_CAPABILITIES)}")
        return Capabilities(**dict.fromkeys(value, True))


def read_seed(path: Path) -> list[ModelSpec]:
    """Return the models in a file.

    Raises:
        SeedError: it cannot be read, or an entry is not a valid model.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError) as error:
        raise SeedError(f"{path}: {error}") from error
    rows = document.get("models") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise SeedError(f'{path}: must have a list named "models"')
    specs: dict[str, ModelSpec] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}: entry {number} ({row.get('name', 'without a name') if isinstance(row, dict) else row})"
        try:
            entry = _Entry.model_validate(row)
        except ValidationError as error:
            faults = "; ".join(_fault(each) for each in error.errors(include_url=False))
            raise SeedError(f"{where}: {faults}") from error
        if entry.name in specs:
            raise SeedError(f"{where}: an earlier entry has the same name")
        values = {name: getattr(entry, name) for name in _Entry.model_fields}
        values["fallbacks"] = Fallbacks(**entry.fallbacks.model_dump())
        values["deployments"] = tuple(Deployment(**deployment.model_dump()) for deployment in entry.deployments)
        spec = ModelSpec(**values)
        if problems := wrong_options(spec):
            raise SeedError(f"{where}: " + "; ".join(f"provider_options.{name} {problems[name]}" for name in problems))
        specs[entry.name] = spec
    for spec in specs.values():
        for name in spec.fallbacks.names:
            if name not in specs:
                raise SeedError(f'{path}: {spec.name} has the fallback "{name}", which is not in the file')
    return list(specs.values())


def _fault(error: ErrorDetails) -> str:
    place = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place} is not a field of a model"
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}".removeprefix(": ")


async def seed(database: Database, path: Path | None = None) -> None:
    """Make the shared models those of the file, by default the one the settings name.

    Raises:
        SeedError: the file cannot be used.
    """
    await write_seed(database, await asyncio.to_thread(read_seed, path or read_settings(ModelsSettings).seed_file))


async def write_seed(database: Database, specs: Sequence[ModelSpec]) -> None:
    """Make the shared models those of a list."""
    async with database.write() as connection:
        if database.dialect == "postgresql":
            # Replicas that start at the same time take turns.
            await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('coxswain-models-seed'))"))
        await ModelRepository(connection).replace_shared(specs)
