"""Credentials of providers that sign in with more than one value, as JSON objects.

Auth refuses what cannot work when it is stored, the models service reads it when it calls: the rule is here for both.
Of an object only what is known is taken: other members make the libraries behind litellm read files, run programs or
send what they sign elsewhere.
"""

import json
from collections.abc import Callable, Mapping

_AWS_KEYS = ("aws_access_key_id", "aws_secret_access_key")
_AWS_SESSION = "aws_session_token"
_SERVICE_ACCOUNT_TEXTS = ("client_email", "private_key")


class WrongForm(Exception):
    """A credential is not of the form that its provider takes. The text says which one that is, and quotes nothing."""


def check_key(text: str) -> None:
    """Check a key that is sent in a header as it is; an empty one is none.

    Raises:
        WrongForm: no header can hold it.
    """
    if not (text.isascii() and text.isprintable()):
        raise WrongForm("a key of printable ASCII characters alone, without line breaks")


def read_aws_credential(text: str) -> Mapping[str, str]:
    """Return a pair of keys by AWS's names, or `api_key` alone.

    Raises:
        WrongForm: it is neither.
    """
    if text and text[0] not in '{["':
        check_key(text)
        return {"api_key": text}
    keys = _texts(text)
    if not all(keys.get(name) for name in _AWS_KEYS) or not keys.keys() <= {*_AWS_KEYS, _AWS_SESSION}:
        raise WrongForm(
            "an API key of Bedrock, or a JSON object with the texts aws_access_key_id and aws_secret_access_key, and "
            "aws_session_token where there is one"
        )
    return keys


def read_service_account(text: str) -> Mapping[str, str]:
    """Return the texts of the key of a Google service account, with more than what is used among them.

    Raises:
        WrongForm: it is none.
    """
    account = _texts(text)
    if account.get("type") != "service_account" or not all(account.get(name) for name in _SERVICE_ACCOUNT_TEXTS):
        raise WrongForm(
            'the JSON key of a service account: an object of texts with "type": "service_account", client_email and '
            "private_key"
        )
    return account


_READERS: Mapping[str, Callable[[str], Mapping[str, str]]] = {
    "bedrock": read_aws_credential,
    "vertex_ai": read_service_account,
}


def check_credential(provider: str, text: str) -> None:
    """Check the form of the credential for a provider of models.

    Raises:
        WrongForm: the provider takes another one.
    """
    _READERS.get(provider, check_key)(text)


def _texts(text: str) -> dict[str, str]:
    """Return the texts in a JSON object; empty when it is no object, or holds anything but texts."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        return {}
    return found
