"""What litellm has to know of a provider: the credential in the form it takes, and the model's options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.identity.provider_credentials import (
    WrongForm,
    check_key,
    read_aws_credential,
    read_service_account,
)
from services.models.domain.model import Model
from services.models.providers.litellm.destinations import location_of
from services.models.providers.upstream_errors import unusable_credential

_GOOGLE_TOKEN_ADDRESS = "https://oauth2.googleapis.com/token"
_SERVICE_ACCOUNT = ("type", "project_id", "private_key_id", "client_email", "private_key", "client_id")


@dataclass(frozen=True, slots=True)
class ProviderArguments:
    """How one model is reached."""

    named: Mapping[str, Any]
    """Arguments of litellm's functions."""
    secret: str
    """What no message may repeat."""


def provider_arguments(model: Model, provider: str, token: str, base_url: str) -> ProviderArguments:
    """Return the arguments of a call; `base_url` is the address that litellm is told, empty when it knows it.

    Raises:
        FailedPrecondition: the credential is not of a form that the provider takes.
    """
    named: dict[str, Any] = {"api_base": base_url} if base_url else {}
    options = model.spec.provider_options
    try:
        secret = _add_credential(provider, token, named)
    except WrongForm as wrong:
        raise unusable_credential(model, wrong) from None
    match provider:
        case "bedrock":
            if region := options.get("region"):
                named["aws_region_name"] = region
        case "vertex_ai":
            if project := options.get("project"):
                named["vertex_project"] = project
            named["vertex_location"] = location_of(options)
    return ProviderArguments(named, secret)


def _add_credential(provider: str, token: str, named: dict[str, Any]) -> str:
    """Add a credential in the form that a provider takes; return what of it is secret.

    Raises:
        WrongForm: it is of another one.
    """
    match provider:
        case "bedrock":
            # A bearer key or a pair of keys; without either, litellm would look for the machine's own.
            keys = read_aws_credential(token)
            named |= keys
            return " ".join(keys.values())
        case "vertex_ai":
            account = read_service_account(token)
            # As an object: a text might be the name of a file. It signs in at Google's own address, whatever its key
            # file says.
            named["vertex_credentials"] = {name: account[name] for name in _SERVICE_ACCOUNT if name in account} | {
                "token_uri": _GOOGLE_TOKEN_ADDRESS
            }
            return account["private_key"]
        case _:
            check_key(token)
            named["api_key"] = token
            return token
