"""What litellm has to know of a provider: the credential in the form it takes, and the model's options.

A credential is a key, or a JSON object for providers that sign in with more than one value. Of an object only what is
known is passed on: other members make the libraries behind litellm read files, run programs or send what they sign
elsewhere.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import FailedPrecondition
from services.models.domain.model import Model

_GOOGLE_TOKEN_ADDRESS = "https://oauth2.googleapis.com/token"
_AWS_KEYS = ("aws_access_key_id", "aws_secret_access_key")
_AWS_SESSION = "aws_session_token"
_SERVICE_ACCOUNT_TEXTS = ("client_email", "private_key")


@dataclass(frozen=True, slots=True)
class ProviderArguments:
    """How one model is reached."""

    named: Mapping[str, Any]
    """Arguments of litellm's functions."""
    secret: str
    """What no message may repeat."""


def provider_arguments(model: Model, provider: str, token: str, base_url: str) -> ProviderArguments:
    """Return the arguments of a call; `base_url` is the operator's, empty for the provider's own address.

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
            if location := options.get("location"):
                named["vertex_location"] = location
        case _:
            named["api_key"] = secret = token
    return ProviderArguments(named, secret)


def _aws(model: Model, token: str, named: dict[str, Any]) -> str:
    """Add a bearer key or a pair of keys; without either, litellm would look for the machine's own."""
    if token and not token.startswith("{"):
        named["api_key"] = token
        return token
    keys = _texts(token)
    if not all(keys.get(name) for name in _AWS_KEYS) or not keys.keys() <= {*_AWS_KEYS, _AWS_SESSION}:
        raise _unusable(
            model,
            "an API key of Bedrock, or a JSON object with the texts aws_access_key_id and aws_secret_access_key, and "
            "aws_session_token where there is one",
        )
    named |= keys
    return " ".join(keys.values())


def _google(model: Model, token: str, named: dict[str, Any]) -> str:
    """Add a service account, which signs in at Google's own address whatever its key file says."""
    account = _texts(token)
    if account.get("type") != "service_account" or not all(account.get(name) for name in _SERVICE_ACCOUNT_TEXTS):
        raise _unusable(model, 'the JSON key of a service account: an object with "type": "service_account"')
    known = ("type", "project_id", "private_key_id", *_SERVICE_ACCOUNT_TEXTS, "client_id")
    # As an object: a text might be the name of a file.
    named["vertex_credentials"] = {name: account[name] for name in known if name in account} | {
        "token_uri": _GOOGLE_TOKEN_ADDRESS
    }
    return account["private_key"]


def _texts(token: str) -> dict[str, str]:
    """Return the texts in a JSON object; empty when it is no object, or holds anything but texts."""
    try:
        found = json.loads(token)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return {}
    return found


def _unusable(model: Model, form: str) -> FailedPrecondition:
    return FailedPrecondition(
        f'the credential for "{model.name}" is not of the form that its provider takes; have an admin store {form}',
        reason="UPSTREAM_CREDENTIAL_REJECTED",
        metadata={"model": model.name},
    )
