"""What some providers have to know besides a key and an address.

Each option is listed with the values it may have. Some become a part of an address or a path: none of them can name
another host there, and none of them names a file, a profile or a variable of this machine.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.models.domain.model import ModelSpec, Provider


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of a provider."""

    values: re.Pattern[str]
    """What the whole value has to match."""
    form: str
    """The same for people."""
    required: bool = False


_API_VERSION = Option(
    re.compile(r"\d{4}-\d{2}-\d{2}(?:-preview)?|preview|latest|v1"), "a version of the interface, as in 2024-10-21"
)
_ORGANIZATION = Option(re.compile(r"[A-Za-z0-9_-]{1,128}"), "an id, as in org-Ab12")
_OPENAI_PROJECT = Option(re.compile(r"[A-Za-z0-9_-]{1,128}"), "an id, as in proj_Ab12")
_AWS_REGION = Option(
    re.compile(r"[a-z]{2}(?:-[a-z]{2,12}){1,3}-\d{1,2}"), "a region of AWS, as in eu-central-1", required=True
)
_GOOGLE_PROJECT = Option(
    re.compile(r"(?:[a-z0-9][a-z0-9.-]{0,62}:)?[a-z0-9][a-z0-9-]{2,62}"), "the id of a project, as in my-project-1"
)
_GOOGLE_LOCATION = Option(
    re.compile(r"global|us|eu|[a-z]{2,20}-[a-z]{2,20}\d{1,2}"), "a location of Google Cloud, as in europe-west4"
)

_OPTIONS: Mapping[Provider, Mapping[str, Option]] = MappingProxyType(
    {
        Provider.AZURE: {"api_version": _API_VERSION},
        Provider.OPENAI: {"organization": _ORGANIZATION, "project": _OPENAI_PROJECT},
    }
)
_LITELLM_OPTIONS: Mapping[str, Mapping[str, Option]] = MappingProxyType(
    {
        "bedrock": {"region": _AWS_REGION},
        "vertex_ai": {"project": _GOOGLE_PROJECT, "location": _GOOGLE_LOCATION},
    }
)


_LITELLM_MODEL = re.compile(r"[A-Za-z0-9@:._+~#-]+(?:/[A-Za-z0-9@:._+~#-]+)*")
# litellm takes some names of these for other services, with other addresses.
_LITELLM_MODELS = MappingProxyType(
    {
        "bedrock": re.compile(
            r"(?:converse/|invoke/)?(?:[a-z0-9.:-]+|arn:aws[a-z-]{0,10}:bedrock:[a-z0-9-]+:\d*:[a-z-]+/[A-Za-z0-9.:_-]+)"
        ),
        "vertex_ai": re.compile(r"(?:[a-z0-9_-]+/)?[A-Za-z0-9@._-]+"),
    }
)
# Reached without litellm, which cannot be held to the rules for addresses that a group chooses.
DIRECT_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "azure": "PROVIDER_AZURE",
        "databricks": "PROVIDER_DATABRICKS",
        "hosted_vllm": "PROVIDER_VLLM",
        "ollama": "PROVIDER_OLLAMA",
        "ollama_chat": "PROVIDER_OLLAMA",
        "openai": "PROVIDER_OPENAI",
        "openai_like": "PROVIDER_OPENAI",
    }
)
"""litellm's names of providers whose models have a provider of their own here."""


def is_model_of_litellm(provider: str, name: str) -> bool:
    """Return whether a provider of litellm's can have a model of this name: nothing in it is an address or a path."""
    if not _LITELLM_MODEL.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        return False
    own = _LITELLM_MODELS.get(provider)
    return own is None or own.fullmatch(name) is not None


def options_of(spec: ModelSpec) -> Mapping[str, Option]:
    """Return the options that a model of this provider may have, by name."""
    if spec.provider is Provider.LITELLM:
        return _LITELLM_OPTIONS.get(spec.upstream_name.partition("/")[0], {})
    return _OPTIONS.get(spec.provider, {})


def wrong_options(spec: ModelSpec) -> dict[str, str]:
    """Return, by the name of each option that cannot be or is missing, what is allowed instead."""
    known = options_of(spec)
    found = {
        name: f"has to be set to {option.form}"
        for name, option in known.items()
        if option.required and name not in spec.provider_options
    }
    for name, value in spec.provider_options.items():
        option = known.get(name)
        if option is None:
            allowed = f"the options of its provider are {', '.join(sorted(known))}" if known else "it has no options"
            found[name] = f"must not be set for this model: {allowed}"
        elif not option.values.fullmatch(value):
            found[name] = f"must be {option.form}"
    return found
