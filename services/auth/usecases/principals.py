"""From a caller's credential to a principal in one group."""

import time
from datetime import timedelta

from services.auth.domain import VerifiedIdentity
from services.auth.identity.sessions import OpenSession, SessionStore
from services.auth.identity.verifier import IdentityVerifier
from services.auth.keys.signing import SigningKeys
from services.auth.usecases.access import Access
from services.auth.usecases.group_limits import LimitsOfGroups
from services.auth.usecases.memberships import Memberships, Standing
from services.common.clock import utc_now
from services.common.errors import FailedPrecondition, PermissionDenied
from services.common.identity.authenticator import Credential
from services.common.identity.principal import Principal, Role
from services.common.logging import redact


class Principals:
    """Verifies callers and signs their principals."""

    def __init__(
        self,
        verifier: IdentityVerifier,
        memberships: Memberships,
        sessions: SessionStore,
        signing_keys: SigningKeys,
        limits: LimitsOfGroups,
        access: Access,
        *,
        principal_lifetime: timedelta,
    ) -> None:
        self._verifier = verifier
        self._memberships = memberships
        self._sessions = sessions
        self._signing_keys = signing_keys
        self._limits = limits
        self._access = access
        self._principal_lifetime = principal_lifetime

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        """Return the caller as a principal with its signed token.

        A platform admin who is in no group gets a principal without one. To name a group is to accept its invitation.

        Raises:
            Unauthenticated: the credential was refused, or is of before the access was revoked.
            FailedPrecondition: GROUP_REQUIRED, no group was named and there is not exactly one to choose.
            PermissionDenied: GROUP_NOT_MEMBER, the caller is not a member of the group named.
            Unavailable: the issuer that could verify the credential does not answer.
        """
        # What changes from now on, this principal may not know of.
        issued_at = round(time.time(), 3)
        identity = await self._verifier.verify(credential)
        standing = await self._standing(credential, identity, group_id)
        group_id, role = _choose(identity, standing, group_id)
        session = await self._unrevoked(credential, identity, group_id)
        principal = self._principal(identity, standing, group_id, role, session.id, issued_at)
        return self._signing_keys.signed(await self._limits.with_limits(principal))

    async def who_am_i(
        self, known: Principal | None, credential: Credential, group_id: str
    ) -> tuple[Principal, Standing]:
        """Return the caller, the groups they may choose from and those they are invited to.

        `known` is their principal when the call carries it. A caller who has to choose first gets a principal without a
        group, which has no token.

        Raises:
            Unauthenticated, PermissionDenied, Unavailable: as `exchange`.
        """
        if known is not None:
            session = await self._sessions.get(known.session_id) if known.session_id else None
            standing = await self._memberships.of(known.subject, session.claimed_roles if session else {})
            return known, standing
        identity = await self._verifier.verify(credential)
        standing = await self._standing(credential, identity, group_id)
        if group_id or len(standing.roles) == 1:
            group_id, role = _choose(identity, standing, group_id)
        else:
            role = Role.ANONYMOUS
        # To ask who one is opens no session but where it has to be known how old the credential is.
        if await self._access.revoked_at(identity.subject, group_id) is not None:
            await self._unrevoked(credential, identity, group_id)
        return self._principal(identity, standing, group_id, role, session_id="", issued_at=time.time()), standing

    async def _standing(self, credential: Credential, identity: VerifiedIdentity, group_id: str) -> Standing:
        standing = await self._memberships.of(identity.subject, identity.claimed_roles)
        chosen = group_id or (next(iter(standing.roles)) if len(standing.roles) == 1 else "")
        # Who acts in a group by a claim has accepted as well: the role stays theirs when the claim ends.
        offered = chosen in standing.invitations or chosen in standing.set_for_claims
        if not offered:
            return standing
        await self._unrevoked(credential, identity, chosen)
        if await self._memberships.accept(identity.subject, chosen) is None:
            return standing
        return await self._memberships.of(identity.subject, identity.claimed_roles)

    async def _unrevoked(self, credential: Credential, identity: VerifiedIdentity, group_id: str) -> OpenSession:
        """Return the session of a credential that was issued since the access to a group was last revoked.

        Raises:
            Unauthenticated: CREDENTIAL_REJECTED, it was issued before.
        """
        session = await self._sessions.open(credential, identity)
        # A credential that does not say when it was issued is as old as it is known.
        issued_at = min(session.since, identity.issued_at) if identity.issued_at is not None else session.since
        await self._access.require(identity.subject, group_id, issued_at)
        return session

    def _principal(
        self,
        identity: VerifiedIdentity,
        standing: Standing,
        group_id: str,
        role: Role,
        session_id: str,
        issued_at: float,
    ) -> Principal:
        return Principal(
            subject=identity.subject,
            group_id=group_id,
            role=role,
            platform_admin=identity.platform_admin or standing.platform_admin,
            credential_kind=identity.kind,
            session_id=session_id,
            execution_id="",
            expires_at=min(utc_now() + self._principal_lifetime, identity.expires_at),
            issued_at=issued_at,
        )


def _choose(identity: VerifiedIdentity, standing: Standing, group_id: str) -> tuple[str, Role]:
    if group_id:
        role = standing.roles.get(group_id)
        if role is None:
            # A credential may have been put in the wrong header.
            named = redact(group_id)
            raise PermissionDenied(
                f'you are not a member of the group "{named}"; WhoAmI lists your groups',
                reason="GROUP_NOT_MEMBER",
                metadata={"group": named},
            )
        return group_id, role
    if len(standing.roles) == 1:
        return next(iter(standing.roles.items()))
    if standing.roles:
        raise FailedPrecondition(
            f"you belong to several groups; name one with x-group-id: {', '.join(standing.roles)}",
            reason="GROUP_REQUIRED",
            metadata={"groups": ",".join(standing.roles)},
        )
    if identity.platform_admin or standing.platform_admin:
        return "", Role.ANONYMOUS
    if standing.invitations:
        raise FailedPrecondition(
            f"you belong to no group; to accept an invitation, name its group with x-group-id: "
            f"{', '.join(standing.invitations)}",
            reason="GROUP_REQUIRED",
            metadata={"groups": ""},
        )
    raise FailedPrecondition(
        f'"{identity.subject}" belongs to no group; an admin of a group can add this subject with SetMember',
        reason="GROUP_REQUIRED",
        metadata={"groups": ""},
    )
