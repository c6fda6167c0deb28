"""From a caller's credential to a principal in one group."""

from collections.abc import Mapping
from datetime import timedelta

from services.auth.domain import VerifiedIdentity
from services.auth.identity.sessions import SessionStore
from services.auth.identity.verifier import IdentityVerifier
from services.auth.keys.signing import SigningKeys
from services.auth.usecases.memberships import Memberships, Places
from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, PermissionDenied
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal, Role
from services.common.logging import redact


class Exchange:
    """Verifies callers and signs what they are."""

    def __init__(
        self,
        verifier: IdentityVerifier,
        memberships: Memberships,
        sessions: SessionStore,
        signing_keys: SigningKeys,
        *,
        principal_lifetime: timedelta,
    ) -> None:
        self._verifier = verifier
        self._memberships = memberships
        self._sessions = sessions
        self._signing_keys = signing_keys
        self._principal_lifetime = principal_lifetime

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        """Return the caller as a principal with its signed token.

        A platform admin who is in no group gets a principal without one.

        Raises:
            Unauthenticated: the credential was refused.
            FailedPrecondition: GROUP_REQUIRED, no group was named and there is not exactly one to choose.
            PermissionDenied: GROUP_NOT_MEMBER, the caller is no member of the group named.
            Unavailable: whoever could verify the credential does not answer.
        """
        identity = await self._verifier.verify(credential)
        places = await self._memberships.of(identity.subject, identity.claimed_roles)
        group_id, role = _choose(identity, places, group_id)
        return await self._sign(credential, identity, places, group_id, role)

    async def who_am_i(self, credential: Credential, group_id: str) -> tuple[Principal, Mapping[str, Role]]:
        """Return the caller and the groups they may choose from.

        A caller who has to choose first gets a principal without a group, which has no token.

        Raises:
            Unauthenticated, PermissionDenied, Unavailable: as `exchange`.
        """
        identity = await self._verifier.verify(credential)
        places = await self._memberships.of(identity.subject, identity.claimed_roles)
        if group_id or len(places.roles) == 1:
            group_id, role = _choose(identity, places, group_id)
        else:
            role = Role.ANONYMOUS
        return self._principal(identity, places, group_id, role, session_id=""), places.roles

    async def groups_of(self, principal: Principal) -> Mapping[str, Role]:
        """Return the groups an already known principal may choose from."""
        session = await self._sessions.get(principal.session_id) if principal.session_id else None
        places = await self._memberships.of(principal.subject, session.claimed_roles if session else {})
        return places.roles

    async def _sign(
        self, credential: Credential, identity: VerifiedIdentity, places: Places, group_id: str, role: Role
    ) -> Principal:
        session_id = await self._sessions.open(credential, identity)
        return self._signing_keys.signed(self._principal(identity, places, group_id, role, session_id))

    def _principal(
        self, identity: VerifiedIdentity, places: Places, group_id: str, role: Role, session_id: str
    ) -> Principal:
        return Principal(
            subject=identity.subject,
            group_id=group_id,
            role=role,
            platform_admin=identity.platform_admin or places.platform_admin,
            credential_kind=identity.kind,
            session_id=session_id,
            execution_id="",
            expires_at=min(utc_now() + self._principal_lifetime, identity.expires_at),
        )


def _choose(identity: VerifiedIdentity, places: Places, group_id: str) -> tuple[str, Role]:
    if group_id:
        role = places.roles.get(group_id)
        if role is None:
            # A credential may have been put in the wrong header.
            named = redact(group_id)
            raise PermissionDenied(
                f'you are no member of the group "{named}"; WhoAmI lists yours',
                reason="GROUP_NOT_MEMBER",
                metadata={"group": named},
            )
        return group_id, role
    if len(places.roles) == 1:
        return next(iter(places.roles.items()))
    if places.roles:
        raise FailedPrecondition(
            f"you belong to several groups; name one with x-group-id: {', '.join(places.roles)}",
            reason="GROUP_REQUIRED",
            metadata={"groups": ",".join(places.roles)},
        )
    if identity.platform_admin or places.platform_admin:
        return "", Role.ANONYMOUS
    raise FailedPrecondition(
        f'"{identity.subject}" belongs to no group; an admin of a group can add this subject with SetMember',
        reason="GROUP_REQUIRED",
        metadata={"groups": ""},
    )
