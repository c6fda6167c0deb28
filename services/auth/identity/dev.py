"""The development identity: the caller's own claim, unverified. Accepted on loopback only."""

import re
from datetime import timedelta

import jwt

from services.auth.domain import VerifiedIdentity
from services.auth.identity.verifier import bearer_token, is_own_token, not_accepted, rejected
from services.common.clock import utc_now
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind, Role

ISSUER = "dev"
DEFAULT_SUBJECT = "dev"
DEFAULT_GROUP = "default"
_SESSION = timedelta(hours=12)
_SUBJECT = re.compile(r"^[A-Za-z0-9._@+-]{1,128}$")
_GROUP = re.compile(r"^[A-Za-z0-9._-]{1,128}$")
_ROLES = {"operator": Role.OPERATOR, "editor": Role.EDITOR, "admin": Role.ADMIN}
_PLATFORM_ADMIN = "platform_admin"
_FORM = (
    'development credentials are written "dev:<subject>:<group>=<role>[,<group>=<role>...][,platform_admin]" '
    "with the roles operator, editor and admin"
)


class DevVerifier:
    """No credential is subject `dev`, admin of group `default`; `dev:<subject>:<group>=<role>` is any other subject."""

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a credential names; see `IdentityVerifier`."""
        expires_at = utc_now() + _SESSION
        if credential == Credential():
            return VerifiedIdentity(
                subject=f"{ISSUER}|{DEFAULT_SUBJECT}",
                kind=CredentialKind.DEV,
                expires_at=expires_at,
                claimed_roles={DEFAULT_GROUP: Role.ADMIN},
                platform_admin=True,
            )
        token = bearer_token(credential)
        prefix, _, rest = token.partition(":")
        if prefix != ISSUER:
            raise (
                not_accepted() if _is_own(token) else rejected(f"this server runs with development identities; {_FORM}")
            )
        subject, _, claims = rest.partition(":")
        if not _SUBJECT.match(subject):
            raise rejected(_FORM)
        roles: dict[str, Role] = {}
        entries = claims.split(",") if claims else []
        platform_admin = _PLATFORM_ADMIN in entries
        for entry in entries:
            if entry == _PLATFORM_ADMIN:
                continue
            group, _, role = entry.partition("=")
            if not _GROUP.match(group) or role not in _ROLES or group in roles:
                raise rejected(_FORM)
            roles[group] = _ROLES[role]
        return VerifiedIdentity(
            subject=f"{ISSUER}|{subject}",
            kind=CredentialKind.DEV,
            expires_at=expires_at,
            claimed_roles=roles,
            platform_admin=platform_admin,
        )


def _is_own(token: str) -> bool:
    try:
        return is_own_token(jwt.get_unverified_header(token))
    except jwt.InvalidTokenError:
        return False
