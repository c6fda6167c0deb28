"""Configuration of models."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlsplit

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.db.row_quota import check_row_quota
from services.common.egress import AddressPolicy, origin_of
from services.common.errors import Aborted, AlreadyExists, FieldViolation, InvalidArgument, NotFound, PermissionDenied
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.models.domain.model import Capabilities, Model, ModelSpec, Provider
from services.models.domain.provider_options import DIRECT_PROVIDERS, is_model_of_litellm, wrong_options
from services.models.price_list import complete_model
from services.models.providers.offline.provider import UPSTREAM_MODELS as OFFLINE_MODELS
from services.models.repositories.models import ModelRepository, read_models
from services.models.tables import models as models_table
from services.models.tables import requests
from services.models.usecases.catalogue import Catalogue, model_not_found

_PAGER = Pager("models")
# Forms of a number that some resolvers take for an address.
_LEGACY_NUMBER = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[0-9.]+|0[xX][0-9a-fA-F.xX]*")


class Models:
    """Reads and changes what models a group has."""

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        addresses: AddressPolicy,
        litellm_providers: frozenset[str],
        prepare: Callable[[Provider], None],
    ) -> None:
        """`litellm_providers` are those of litellm's that groups' own models may use.

        `prepare` is called with the provider of each model that has been configured: calls of it are to be expected.
        """
        self._database = database
        self._catalogue = catalogue
        self._addresses = addresses
        self._litellm_providers = litellm_providers
        self._prepare = prepare

    async def page(self, principal: Principal, size: int, token: str, *, enabled_only: bool) -> Page[Model]:
        """Return one page by name.

        Raises:
            InvalidArgument: the token is not of this listing.
        """

        async def read(after: list[Any] | None, limit: int) -> Sequence[Model]:
            first = after[0] if after else ""
            return await read_models(self._database, principal.group_id, first, limit, enabled_only=enabled_only)

        filters = {"group": principal.group_id, "enabled_only": enabled_only}
        page = await _PAGER.page(size, token, filters, read, lambda model: [model.name])
        return Page(list(map(complete_model, page.items)), page.next_page_token)

    async def get(self, principal: Principal, key: ResourceKey) -> Model:
        """Return a model.

        Raises:
            NotFound: the group has no model of that id or name.
        """
        if key.name:
            return await self._catalogue.find(principal.group_id, key.name)
        async with self._database.read() as connection:
            return complete_model(await _seen(ModelRepository(connection), principal.group_id, key))

    def expect_calls(self, model: Model) -> None:
        """Get ready for calls of a model that a crew has looked up, or that was found to have a key."""
        self._prepare(model.spec.provider)

    async def create(self, principal: Principal, spec: ModelSpec, request: RequestKey | None) -> Model:
        """Add a model of the caller's group; a repeated `request` returns the model of the first one.

        Raises:
            InvalidArgument: the configuration cannot work, or leads where groups may not go.
            AlreadyExists: the group has one of that name, or the request_id came with another body.
            NotFound: the model of the first request has been deleted since.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many models of its own as it may.
        """
        now = utc_now()
        model = Model(new_id(), principal.group_id, spec, enabled=True, created_at=now, updated_at=now)
        self._check(model)
        async with self._database.write() as connection:
            models = ModelRepository(connection)
            if request is not None:
                first_id = await RequestRepository(connection, requests).claim(request, model.id)
                if first_id != model.id:
                    standing = await models.find(principal.group_id, ResourceKey(id=first_id))
                    if standing is None:
                        raise NotFound(
                            f'the model "{spec.name}" that this request made has been deleted',
                            metadata={"resource": "model", "id": first_id},
                        )
                    return complete_model(standing)
            await _check_fallbacks(models, model)
            limit, column = principal.limits.max_models, models_table.c.group_id
            await check_row_quota(connection, "max_models", limit, column, principal.group_id, what="models")
            if not await models.add(model):
                raise AlreadyExists(
                    f'your group has a model "{spec.name}"; change it with UpdateModel or choose another name',
                    metadata={"resource": "model", "name": spec.name},
                )
        self._catalogue.forget(principal.group_id, spec.name)
        self._prepare(spec.provider)
        return complete_model(model)

    async def update(
        self, principal: Principal, key: ResourceKey, change: Callable[[Model], ModelSpec], expected_revision: int
    ) -> Model:
        """Change the configuration of a group's own model to what `change` makes of it.

        The present revision is kept when the configuration is the same.

        Raises:
            InvalidArgument: the result cannot work.
            NotFound: the group has no model of its own of that id or name.
            Aborted: the model is not at `expected_revision` (0: any).
        """
        async with self._database.write() as connection:
            models = ModelRepository(connection)
            current = await models.find_own(principal.group_id, key)
            if current is None:
                raise await _not_own(models, principal.group_id, key)
            changed = replace(current, spec=change(current), updated_at=utc_now(), revision=current.revision + 1)
            self._check(changed)
            if changed.spec == current.spec:
                return complete_model(current)
            # What was deleted since it was chosen hinders no other change.
            await _check_fallbacks(models, changed, known=current.spec.fallbacks.names)
            if expected_revision not in {0, current.revision}:
                raise Aborted.revision("model", str(key), expected_revision, current.revision)
            await models.update(changed)
        self._catalogue.forget(principal.group_id, changed.name)
        self._prepare(changed.spec.provider)
        return complete_model(changed)

    async def delete(self, principal: Principal, key: ResourceKey) -> None:
        """Remove a model of the caller's group.

        Raises:
            NotFound: the group has no model of its own of that id or name.
        """
        async with self._database.write() as connection:
            models = ModelRepository(connection)
            name = await models.delete(principal.group_id, key)
            if name is None:
                raise await _not_own(models, principal.group_id, key)
        self._catalogue.forget(principal.group_id, name)

    async def set_enabled(self, principal: Principal, key: ResourceKey, *, enabled: bool) -> Model:
        """Enable or disable a model for the caller's group.

        Raises:
            NotFound: the group has no model of that id or name.
        """
        async with self._database.write() as connection:
            models = ModelRepository(connection)
            model = await _seen(models, principal.group_id, key)
            if not await models.set_enabled(principal.group_id, model.id, enabled=enabled):
                raise await model_not_found(models, principal.group_id, key)
        self._catalogue.forget(principal.group_id, model.name)
        return complete_model(replace(model, enabled=enabled))

    def _check(self, model: Model) -> None:
        spec = model.spec
        violations = [
            *_check_name(spec),
            *_check_capabilities(complete_model(model).spec),
            *_check_base_url(spec, "model"),
            *self._check_upstream_model(spec, "model"),
            *_check_provider_options(spec),
            *self._check_deployments(spec),
        ]
        if violations:
            raise InvalidArgument.fields(violations)
        self._check_address(spec.base_url, "model")
        for index, deployment in enumerate(spec.deployments):
            self._check_address(deployment.base_url, f"model.deployments[{index}]")

    def _check_address(self, base_url: str, path: str) -> None:
        if not base_url:
            return
        try:
            self._addresses.check_literal(base_url)
        except PermissionDenied as refusal:
            refusal.violations = (FieldViolation(f"{path}.base_url", refusal.message),)
            raise

    def _check_deployments(self, spec: ModelSpec) -> Iterator[FieldViolation]:
        """Yield what is wrong with the deployments, each of which has to be a place that the model could be at."""
        if spec.deployments and spec.provider is Provider.OFFLINE:
            yield FieldViolation("model.deployments", "must be empty for an offline model, which runs in the service")
            return
        places: dict[tuple[str, str], int] = {}
        for index, deployment in enumerate(spec.deployments):
            path = f"model.deployments[{index}]"
            first = places.setdefault((deployment.base_url, deployment.upstream_model), index)
            if first != index:
                yield FieldViolation(path, f"must differ from deployments[{first}]; raise the weight of that one")
            if deployment.base_url:
                yield from _check_base_url(replace(spec, base_url=deployment.base_url), path)
            if deployment.upstream_model:
                deployed = replace(spec, upstream_model=deployment.upstream_model)
                yield from self._check_upstream_model(deployed, path)
                for name, problem in wrong_options(deployed).items():
                    # What it does not take is the business of the others.
                    if name not in spec.provider_options:
                        yield FieldViolation(f"model.provider_options.{name}", problem)

    def _check_upstream_model(self, spec: ModelSpec, path: str) -> list[FieldViolation]:
        name = spec.upstream_name
        if spec.provider is Provider.OFFLINE and name not in OFFLINE_MODELS:
            known = ", ".join(sorted(OFFLINE_MODELS))
            return [
                FieldViolation(f"{path}.upstream_model", f'must be one of {known} for an offline model, not "{name}"')
            ]
        return self._check_litellm_model(name, path) if spec.provider is Provider.LITELLM else []

    def _check_litellm_model(self, name: str, path: str) -> list[FieldViolation]:
        provider, _, rest = name.partition("/")
        if provider not in self._litellm_providers and provider in DIRECT_PROVIDERS:
            return [
                FieldViolation(
                    "model.provider",
                    f"must be {DIRECT_PROVIDERS[provider]} for a model of {provider}, which takes a base_url: litellm "
                    "cannot be held to the rules for addresses that a group chooses",
                )
            ]
        if not rest or provider not in self._litellm_providers:
            known = ", ".join(sorted(self._litellm_providers))
            allowed = f"must be a provider, a slash and a model; the providers are {known}"
            return [FieldViolation(f"{path}.upstream_model", allowed)]
        if not is_model_of_litellm(provider, rest):
            allowed = f"must end in the name of a model of {provider}, which is neither an address nor a path"
            return [FieldViolation(f"{path}.upstream_model", allowed)]
        return []


def _check_name(spec: ModelSpec) -> list[FieldViolation]:
    return (
        [] if spec.name else [FieldViolation("model.name", "has to be set: crews and calls refer to the model by it")]
    )


def _check_capabilities(spec: ModelSpec) -> list[FieldViolation]:
    can = spec.capabilities
    if not can.chat and not can.embeddings:
        what = "must include chat or embeddings: the packaged list does not know what this model can do"
        return [FieldViolation("model.capabilities", what)]
    more = replace(can, chat=False, embeddings=False)
    if spec.provider is Provider.OFFLINE and more != Capabilities():
        return [
            FieldViolation(
                "model.capabilities",
                "must be chat or embeddings alone for an offline model: it has no tools, JSON schemas, reasoning, "
                "images, documents or audio",
            )
        ]
    return []


def _check_base_url(spec: ModelSpec, path: str) -> list[FieldViolation]:
    if not spec.base_url:
        return []
    if spec.provider is Provider.OFFLINE:
        return [FieldViolation(f"{path}.base_url", "must be empty for an offline model")]
    if spec.provider is Provider.LITELLM:
        allowed = (
            "must be empty for a model of PROVIDER_LITELLM: litellm cannot be held to the rules for addresses that a "
            "group chooses; use PROVIDER_OPENAI for a server that speaks OpenAI's interface"
        )
        return [FieldViolation(f"{path}.base_url", allowed)]
    parts = urlsplit(spec.base_url) if origin_of(spec.base_url) else None
    if parts is None or parts.query or parts.fragment or _LEGACY_NUMBER.fullmatch(parts.hostname or ""):
        allowed = "must be https://HOST/PATH without user name, query and fragment; store keys with PutSecret"
        return [FieldViolation(f"{path}.base_url", allowed)]
    return []


def _check_provider_options(spec: ModelSpec) -> list[FieldViolation]:
    return [FieldViolation(f"model.provider_options.{name}", problem) for name, problem in wrong_options(spec).items()]


async def _check_fallbacks(models: ModelRepository, model: Model, known: Collection[str] = ()) -> None:
    """Check that other models may answer in a model's place; names in `known` are taken as they are.

    Raises:
        InvalidArgument: one is unknown or cannot.
    """
    fallbacks = model.spec.fallbacks
    if fallbacks.names and not complete_model(model).spec.capabilities.chat:
        raise InvalidArgument.field(
            "model.fallbacks", "must be empty for a model without chat: vectors of different models do not match"
        )
    violations = []
    for occasion in fields(fallbacks):
        for index, name in enumerate(getattr(fallbacks, occasion.name)):
            problem = "" if name in known else await _problem_of_fallback(models, model, name)
            if problem:
                violations.append(FieldViolation(f"model.fallbacks.{occasion.name}[{index}]", problem))
    if violations:
        raise InvalidArgument.fields(violations)


async def _problem_of_fallback(models: ModelRepository, model: Model, name: str) -> str:
    if name == model.name:
        return "must be another model"
    key = ResourceKey(name=name)
    other = await models.find(model.group_id, key)
    if other is None:
        return (await model_not_found(models, model.group_id, key)).message
    if not complete_model(other).spec.capabilities.chat:
        return f'"{name}" cannot answer conversations; choose one that has chat'
    return ""


async def _seen(models: ModelRepository, group_id: str, key: ResourceKey) -> Model:
    model = await models.find(group_id, key)
    if model is None:
        raise await model_not_found(models, group_id, key)
    return model


async def _not_own(models: ModelRepository, group_id: str, key: ResourceKey) -> NotFound:
    """Return the failure to find a group's own model, which says so when it is a shared one."""
    shared = await models.find(group_id, key)
    if shared is None:
        return await model_not_found(models, group_id, key)
    return NotFound(
        f'"{shared.name}" is shared by all groups and cannot be changed; create a model of that name for your group, '
        "which then hides it, or disable it with SetModelEnabled",
        reason="MODEL_NOT_FOUND",
        metadata={"model": shared.name},
    )
