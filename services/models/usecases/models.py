"""Configuration of models."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from urllib.parse import urlsplit

from services.common.egress import AddressPolicy
from services.common.errors import FieldViolation, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.paging import cut_page, decode_page_token, page_size
from services.models.domain.model import Capabilities, Model, ModelKey, ModelSpec, Provider
from services.models.providers.offline.provider import UPSTREAM_MODELS as OFFLINE_MODELS
from services.models.repositories.models import ModelRepository, RequestKey
from services.models.usecases.catalogue import Catalogue

_LISTING = "models"
CHANGEABLE = frozenset(field.name for field in fields(ModelSpec)) - {"name"}
# Forms of a number that some resolvers take for an address.
_LEGACY_NUMBER = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[0-9.]+|0[xX][0-9a-fA-F.xX]*")
_CAPABILITIES = frozenset(f"capabilities.{field.name}" for field in fields(Capabilities))


class Models:
    """Reads and changes what models a group has."""

    def __init__(
        self,
        repository: ModelRepository,
        catalogue: Catalogue,
        addresses: AddressPolicy,
        litellm_providers: frozenset[str],
    ) -> None:
        """`litellm_providers` are those of litellm's that groups' own models may use."""
        self._repository = repository
        self._catalogue = catalogue
        self._addresses = addresses
        self._litellm_providers = litellm_providers

    async def page(
        self, principal: Principal, requested_size: int, page_token: str, *, enabled_only: bool
    ) -> tuple[Sequence[Model], str]:
        """Return one page by name and the token of the next.

        Raises:
            InvalidArgument: the token is not of this listing.
        """
        filters = {"group": principal.group_id, "enabled_only": enabled_only}
        key = decode_page_token(page_token, _LISTING, filters)
        after = key[0] if key and isinstance(key[0], str) else ""
        size = page_size(requested_size)
        found = await self._repository.page(principal.group_id, after, size + 1, enabled_only=enabled_only)
        return cut_page(found, size, _LISTING, filters, lambda model: [model.name])

    async def get(self, principal: Principal, key: ModelKey) -> Model:
        """Return a model.

        Raises:
            NotFound: the group sees no such model.
        """
        if key.name:
            return await self._catalogue.find(principal.group_id, key.name)
        model = await self._repository.find(principal.group_id, key)
        if model is None:
            raise NotFound(
                f'there is no model with the id "{key.id}" for your group; ListModels shows those there are',
                reason="MODEL_NOT_FOUND",
                metadata={"model": key.id},
            )
        return model

    async def create(self, principal: Principal, spec: ModelSpec, request: RequestKey | None) -> Model:
        """Add a model of the caller's group.

        Raises:
            InvalidArgument: the configuration cannot work, or leads where groups may not go.
            AlreadyExists: the group has one of that name, or the request_id came with another body.
        """
        self._check(spec)
        model = await self._repository.create(principal.group_id, spec, request)
        self._catalogue.forget(principal.group_id, spec.name)
        return model

    async def update(self, principal: Principal, key: ModelKey, spec: ModelSpec, paths: Iterable[str]) -> Model:
        """Change the fields that `paths` name to what `spec` holds.

        Raises:
            InvalidArgument: a path is no field that can be changed, or the result cannot work.
            NotFound: the group has no such model of its own.
        """
        paths = frozenset(paths)
        if not paths:
            raise InvalidArgument.field("update_mask", 'name the fields to change, or "*" for all of them')
        if unknown := sorted(paths - CHANGEABLE - _CAPABILITIES - {"*"}):
            raise InvalidArgument(
                f"update_mask names fields that cannot be changed: {', '.join(unknown)}",
                violations=[
                    FieldViolation("update_mask", f'"{path}" is not one of {", ".join(sorted(CHANGEABLE))}')
                    for path in unknown
                ],
            )

        def alter(current: ModelSpec) -> ModelSpec:
            altered = _merge(current, spec, paths)
            self._check(altered)
            return altered

        model = await self._repository.change(principal.group_id, key, alter)
        if model is None:
            raise await self._not_own(principal, key)
        self._catalogue.forget(principal.group_id, model.name)
        return model

    async def delete(self, principal: Principal, key: ModelKey) -> None:
        """Remove a model of the caller's group.

        Raises:
            NotFound: the group has no such model of its own.
        """
        name = await self._repository.delete(principal.group_id, key)
        if name is None:
            raise await self._not_own(principal, key)
        self._catalogue.forget(principal.group_id, name)

    async def set_enabled(self, principal: Principal, key: ModelKey, *, enabled: bool) -> Model:
        """Enable or disable a model for the caller's group.

        Raises:
            NotFound: the group sees no such model.
        """
        self._catalogue.forget(principal.group_id, key.name)
        model = await self.get(principal, key)
        await self._repository.set_enabled(principal.group_id, model.id, enabled=enabled)
        self._catalogue.forget(principal.group_id, model.name)
        return replace(model, enabled=enabled)

    async def _not_own(self, principal: Principal, key: ModelKey) -> NotFound:
        """Return the failure to find a group's own model, which says so when it is a shared one."""
        model = await self.get(principal, key)
        name = model.name
        if not model.shared:
            # It came or went between the two looks.
            return NotFound.of("model", name)
        return NotFound(
            f'"{name}" is shared by all groups and cannot be changed; create a model of that name for your group, '
            "which then hides it, or switch it off with SetModelEnabled",
            reason="MODEL_NOT_FOUND",
            metadata={"model": name},
        )

    def _check(self, spec: ModelSpec) -> None:
        violations = [
            *(
                []
                if spec.name
                else [FieldViolation("model.name", "required: crews and calls refer to the model by it")]
            ),
            *_check_capabilities(spec),
            *_check_base_url(spec),
            *self._check_upstream_model(spec),
        ]
        if violations:
            raise InvalidArgument(
                "; ".join(f"{violation.field}: {violation.description}" for violation in violations),
                violations=violations,
            )
        if spec.base_url:
            self._addresses.check_literal(spec.base_url)

    def _check_upstream_model(self, spec: ModelSpec) -> list[FieldViolation]:
        name = spec.upstream_name
        if spec.provider is Provider.OFFLINE and name not in OFFLINE_MODELS:
            known = ", ".join(sorted(OFFLINE_MODELS))
            return [FieldViolation("model.upstream_model", f'no offline model is called "{name}"; there are {known}')]
        if spec.provider is Provider.LITELLM:
            provider, _, rest = name.partition("/")
            if not rest or provider not in self._litellm_providers:
                known = ", ".join(sorted(self._litellm_providers))
                return [FieldViolation("model.upstream_model", f"begin it with one of {known}, then a slash")]
        return []


def _check_capabilities(spec: ModelSpec) -> list[FieldViolation]:
    can = spec.capabilities
    if not can.chat and not can.embeddings:
        return [FieldViolation("model.capabilities", "a model has at least one of chat and embeddings")]
    if spec.provider is Provider.OFFLINE and (can.tools or can.json_schema or can.reasoning):
        return [FieldViolation("model.capabilities", "offline models neither call tools nor follow schemas nor reason")]
    return []


def _check_base_url(spec: ModelSpec) -> list[FieldViolation]:
    if not spec.base_url:
        return []
    if spec.provider in (Provider.OFFLINE, Provider.LITELLM):
        return [FieldViolation("model.base_url", f"{spec.provider.value} models have no address")]
    try:
        parts = urlsplit(spec.base_url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return [FieldViolation("model.base_url", "not an address")]
    if not valid or "\\" in spec.base_url or _LEGACY_NUMBER.fullmatch(parts.hostname or ""):
        return [FieldViolation("model.base_url", "not an address")]
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return [FieldViolation("model.base_url", "leave out user, query and fragment; keys are stored with PutSecret")]
    return []


def _merge(current: ModelSpec, new: ModelSpec, paths: frozenset[str]) -> ModelSpec:
    if "*" in paths:
        if new.name not in ("", current.name):
            raise InvalidArgument.field(
                "model.name", f'a model cannot be renamed: leave the name out or repeat "{current.name}"'
            )
        return replace(new, name=current.name)
    merged = replace(current, **{path: getattr(new, path) for path in paths & CHANGEABLE})
    single = [path.partition(".")[2] for path in paths & _CAPABILITIES]
    can = replace(merged.capabilities, **{name: getattr(new.capabilities, name) for name in single})
    return replace(merged, capabilities=can)
