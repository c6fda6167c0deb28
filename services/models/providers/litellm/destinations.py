"""Where the calls of a model go that litellm makes: the one origin its credential is asked for, and sent to."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from services.common.egress import origin_of, required_origin
from services.common.errors import FailedPrecondition
from services.models.domain.model import Model

_FILE = Path(__file__).with_name("providers.yaml")
# What litellm takes too, for a model that does not say it.
_USUAL_LOCATION = "us-central1"
_CHINESE_REGION = "cn-"
_PORTS = {"http": 80, "https": 443}
# Locations of Google Cloud that are no single region have hosts of another form.
_GOOGLE_HOSTS = {"global": "https://aiplatform.googleapis.com"} | {
    area: f"https://aiplatform.{area}.rep.googleapis.com" for area in ("us", "eu")
}


class _Provider(BaseModel):
    """What is known of one provider's addresses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: str
    chat: str = ""
    embeddings: str = ""


@dataclass(frozen=True, slots=True)
class LitellmDestination:
    """Where one model's calls go."""

    origin: str
    """Empty when it is not known."""
    chat: str = ""
    """The address that litellm is told; empty means that it knows it."""
    embeddings: str = ""
    """The same for embeddings."""


def destination_of(model: Model, base_urls: Mapping[str, str]) -> LitellmDestination:
    """Return where a model's calls go; `base_urls` are the operator's addresses by provider."""
    provider = model.spec.upstream_name.partition("/")[0]
    if base_url := base_urls.get(provider):
        return LitellmDestination(origin_of(base_url) or "", base_url, base_url)
    known = _providers().get(provider)
    if known is None:
        return LitellmDestination("")
    options = model.spec.provider_options
    match provider:
        case "bedrock":
            region = options.get("region", "")
            ending = ".cn" if region.startswith(_CHINESE_REGION) else ""
            return LitellmDestination(f"{known.origin.format(region=region)}{ending}" if region else "")
        case "vertex_ai":
            location = location_of(options)
            return LitellmDestination(_GOOGLE_HOSTS.get(location) or known.origin.format(location=location))
        case _:
            return LitellmDestination(known.origin, known.chat, known.embeddings)


def required_destination(model: Model, base_urls: Mapping[str, str]) -> LitellmDestination:
    """Return where a model's calls go.

    Raises:
        FailedPrecondition: it is not known.
        PermissionDenied: the operator's address has no origin.
    """
    found = destination_of(model, base_urls)
    if found.origin:
        return found
    provider = model.spec.upstream_name.partition("/")[0]
    if provider in base_urls:
        required_origin(base_urls[provider])
    raise FailedPrecondition(
        f'where calls of "{model.name}" go is not known, and so neither is whose key they may carry; have the operator '
        f'give the address of "{provider}" in COXSWAIN_MODELS_LITELLM_BASE_URLS',
        reason="UPSTREAM_REJECTED",
        metadata={"model": model.name, "provider": provider},
    )


def ports_of_destinations(base_urls: Mapping[str, str]) -> frozenset[int]:
    """Return the ports of TCP at which calls of models may arrive: those of `base_urls` beside HTTPS's."""
    origins = filter(None, map(origin_of, base_urls.values()))
    return frozenset({_PORTS["https"], *(each.port or _PORTS[each.scheme] for each in map(urlsplit, origins))})


def location_of(options: Mapping[str, str]) -> str:
    """Return the location of Google Cloud that a model of Vertex AI is called at."""
    return options.get("location") or _USUAL_LOCATION


@functools.cache
def _providers() -> dict[str, _Provider]:
    return TypeAdapter(dict[str, _Provider]).validate_python(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
