"""The binding of each kind of sealed value."""

from services.auth.domain import Secret
from services.auth.keys.sealing import Binding


def private_key(kid: str) -> Binding:
    """Return the binding of a signing key's private half."""
    return Binding("signing_keys", kid)


def user_token(session_id: str) -> Binding:
    """Return the binding of the token of a credential session."""
    return Binding("credential_sessions", session_id)


def secret(row: Secret) -> Binding:
    """Return the binding of one version of a group's secret."""
    return Binding("secrets", row.id, row.group_id, row.name, row.version)
