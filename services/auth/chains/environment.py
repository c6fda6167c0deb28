"""Credentials in the environment of this process, which its operator shares with some groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from services.auth.chains.link import Answer, CredentialRequest, for_destination
from services.auth.domain import CredentialPurpose
from services.auth.settings import EVERY_GROUP
from services.common.egress import credential_origin_of

_PACKAGED = Path(__file__).with_name("providers.yaml")
_PROVIDERS_OF = {CredentialPurpose.POSTGRESQL: "postgresql"}
_DATABRICKS = "databricks"


class ProviderVariables(BaseModel):
    """Which environment variables hold a provider's key and address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | tuple[str, ...]
    """Variable with the key, or several: the first that is set counts."""
    base_url: str
    """Variable with the address the key belongs to."""
    origin: str = ""
    """Origin the key belongs to when that variable is not set."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The variables that may hold the key, in the order they are looked at."""
        return (self.key,) if isinstance(self.key, str) else self.key


_PROVIDERS = TypeAdapter(dict[str, ProviderVariables])


def read_providers(path: Path | None) -> dict[str, ProviderVariables]:
    """Return the variables of each provider by its name.

    Raises:
        ValueError: the file cannot be read or is not of this form.
    """
    path = path or _PACKAGED
    try:
        return _PROVIDERS.validate_python(yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"the providers file {path} cannot be read: {type(error).__name__}") from None


@dataclass(frozen=True, slots=True)
class SharedGroups:
    """The groups that may use what belongs to the operator."""

    names: tuple[str, ...]

    def __contains__(self, group_id: object) -> bool:
        return bool(group_id) and (EVERY_GROUP in self.names or group_id in self.names)

    @property
    def absent(self) -> str:
        """The reason why an operator's link has nothing for a group that is not among them."""
        return (
            "the operator's own credentials are not shared with your group; "
            "the operator names groups in COXSWAIN_AUTH_SHARED_CREDENTIAL_GROUPS"
        )


class EnvironmentLink:
    """A key or token in the environment, together with the address it belongs to."""

    name = "environment"

    def __init__(
        self,
        shared: SharedGroups,
        providers: Mapping[str, ProviderVariables],
        environment: Mapping[str, str],
    ) -> None:
        self._shared = shared
        self._providers = providers
        self._environment = environment

    async def ask(self, request: CredentialRequest) -> Answer:
        """Return the key or token that the purpose asks for; see `Link`."""
        if request.principal.group_id not in self._shared:
            return Answer.absent(self._shared.absent, for_everybody=True)
        is_model = request.purpose is CredentialPurpose.LLM_PROVIDER
        provider = request.provider if is_model else _PROVIDERS_OF.get(request.purpose, _DATABRICKS)
        if is_model and provider in _PROVIDERS_OF.values():
            return Answer.absent(f"{provider} is no provider of models")
        variables = self._providers.get(provider) or _by_convention(provider)
        values = {name: self._environment.get(name, "").strip() for name in variables.keys}
        name = next((name for name, value in values.items() if value), "")
        if not name:
            return Answer.absent(f"{' and '.join(values)} {'is' if len(values) == 1 else 'are'} not set")
        address = self._environment.get(variables.base_url, "").strip() or variables.origin
        origin = credential_origin_of(address) if address else None
        if origin is None:
            problem = "is not an address" if address else "is not set"
            return Answer.rejected(
                f"{name} is set but {variables.base_url} {problem}: the origin it may be sent to is not known"
            )
        return for_destination(Answer.used(name, values[name], origin), (origin,), request.destination)


def _by_convention(provider: str) -> ProviderVariables:
    prefix = provider.upper().replace("-", "_")
    return ProviderVariables(key=f"{prefix}_API_KEY", base_url=f"{prefix}_BASE_URL")
