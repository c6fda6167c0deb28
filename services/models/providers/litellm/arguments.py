"""What litellm has to know of a provider: the credential in the form it takes, and the model's options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import FailedPrecondition
from services.common.identity.provider_credentials import WrongForm, read_aws_credential, read_service_account
from services.models.domain.model import Model
from services.models.providers.litellm.destinations import location_of

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
    match provider:
        case "bedrock":
            secret = _aws(model, token, named)
            if region := options.get("region"):
                named["aws_region_name"] = region
        case "vertex_ai":
            secret = _google(model, token, named)
            if project := options.get("project"):
                named["vertex_project"] = project
            named["vertex_location"] = location_of(options)
        case _:
            named["api_key"] = secret = token
    return ProviderArguments(named, secret)


def _aws(model: Model, token: str, named: dict[str, Any]) -> str:
    """Add a bearer key or a pair of keys; without either, litellm would look for the machine's own."""
    try:
        keys = read_aws_credential(token)
    except WrongForm as error:
        raise _unusable(model, error) from None
    named |= keys
    return " ".join(keys.values())


def _google(model: Model, token: str, named: dict[str, Any]) -> str:
    """Add a service account, which signs in at Google's own address whatever its key file says."""
    try:
        account = read_service_account(token)
    except WrongForm as error:
        raise _unusable(model, error) from None
    # As an object: a text might be the name of a file.
    named["vertex_credentials"] = {name: account[name] for name in _SERVICE_ACCOUNT if name in account} | {
        "token_uri": _GOOGLE_TOKEN_ADDRESS
    }
    return account["private_key"]


def _unusable(model: Model, wrong: WrongForm) -> FailedPrecondition:
    return FailedPrecondition(
        f'the credential for "{model.name}" is not of the form that its provider takes; have an admin store {wrong}',
        reason="UPSTREAM_CREDENTIAL_REJECTED",
        metadata={"model": model.name},
    )
