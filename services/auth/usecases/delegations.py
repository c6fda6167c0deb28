"""Grants: the right of an execution to act for a subject after the subject's call has ended."""

import time
from datetime import datetime, timedelta

from services.auth.domain import Claim, ExecutionIdentity, Grant, OnCredentialExpiry, Session
from services.auth.identity.cache import EXPIRY_MARGIN
from services.auth.identity.service_tokens import token_of
from services.auth.identity.sessions import SessionStore
from services.auth.identity.verifier import expired
from services.auth.keys.signing import SigningKeys
from services.auth.repositories.grants import GrantRepository, read_grant
from services.auth.repositories.service_tokens import read_named_token
from services.auth.usecases.access import Access
from services.auth.usecases.group_limits import LimitsOfGroups
from services.auth.usecases.memberships import Memberships
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied, Unauthenticated
from services.common.identity.principal import CredentialKind, Principal, Role
from services.common.ids import new_id


class Delegations:
    """Creates, renews and revokes grants."""

    def __init__(
        self,
        database: Database,
        sessions: SessionStore,
        memberships: Memberships,
        signing_keys: SigningKeys,
        limits: LimitsOfGroups,
        access: Access,
        *,
        principal_lifetime: timedelta,
        claim_lifetime: timedelta,
        retention: timedelta,
    ) -> None:
        """`claim_lifetime`: how long a role counts that only a credential's claim gave, from when it was shown."""
        self._database = database
        self._sessions = sessions
        self._memberships = memberships
        self._signing_keys = signing_keys
        self._limits = limits
        self._access = access
        self._principal_lifetime = principal_lifetime
        self._claim_lifetime = claim_lifetime
        self._retention = retention

    async def create(
        self,
        principal: Principal,
        execution_id: str,
        identity: ExecutionIdentity | None,
        on_credential_expiry: OnCredentialExpiry,
    ) -> Grant:
        """Return the grant of an execution, created by the first request.

        Raises:
            PermissionDenied: ROLE_REQUIRED, going on as the group needs the role EDITOR; DELEGATION_REVOKED, the caller
                acts for an execution whose grant has ended, or that acts as a user.
            FailedPrecondition: CREDENTIAL_NOT_CONFIGURED, USER was requested and the caller has no token of their own.
            Unauthenticated: CREDENTIAL_EXPIRED, the caller's token has expired; CREDENTIAL_REJECTED, their access was
                revoked after the principal was issued.
            AlreadyExists: the execution has a grant of another subject or with other terms.
        """
        if on_credential_expiry is OnCredentialExpiry.USE_GROUP_IDENTITY and principal.role < Role.EDITOR:
            raise _role_required(principal.role, "an execution that continues as the group")
        identity = _resolved(principal.credential_kind, identity)
        session, claim = await self._basis(principal)
        uses_token = identity is ExecutionIdentity.USER and principal.credential_kind is CredentialKind.USER
        grant = Grant(
            id=new_id(),
            execution_id=execution_id,
            group_id=principal.group_id,
            subject=principal.subject,
            identity=identity,
            on_credential_expiry=on_credential_expiry,
            credential_kind=principal.credential_kind,
            session_id=session.id if session else "",
            credential_expires_at=session.expires_at if session and uses_token else None,
            claim=claim,
            created_at=utc_now(),
            revoked_at=None,
        )
        async with self._database.write() as connection:
            await self._access.hold(connection, principal)
            grants = GrantRepository(connection)
            if await grants.add(grant):
                return grant
            standing = await grants.of_execution(execution_id)
        if standing is None or _terms(standing) != _terms(grant):
            raise AlreadyExists(
                f'the execution "{execution_id}" has a grant with other terms; start another execution',
                metadata={"resource": "grant", "name": execution_id},
            )
        if standing.revoked_at is not None:
            raise _revoked(execution_id, "has ended")
        return standing

    async def _basis(self, principal: Principal) -> tuple[Session | None, Claim | None]:
        """Return the session a grant is based on, and the role that comes from the credential itself."""
        if principal.execution_id:
            return None, await self._inherited(principal)
        session = await self._sessions.get(principal.session_id) if principal.session_id else None
        if session is None and principal.credential_kind is CredentialKind.USER:
            raise expired()
        role = session.claimed_roles.get(principal.group_id) if session else None
        return session, Claim(role, utc_now()) if role is not None else None

    async def _inherited(self, principal: Principal) -> Claim | None:
        """Return the claim an execution passes on, with its age; only an execution that acts as the group, such as a
        schedule, passes one on."""
        async with self._database.read() as connection:
            parent = await GrantRepository(connection).of_execution(principal.execution_id)
        if parent is None or parent.revoked_at is not None:
            raise _revoked(principal.execution_id, "has ended")
        if principal.credential_kind is not CredentialKind.GROUP:
            raise _revoked(principal.execution_id, "acts as a user, which cannot be passed on to another execution")
        return parent.claim

    async def issue(self, grant_id: str, execution_id: str) -> Principal:
        """Return a fresh principal that acts for an execution.

        Raises:
            NotFound: that execution does not have the grant.
            PermissionDenied: DELEGATION_REVOKED, it was revoked, its subject has left the group, or was a member only
                by a token that was shown too long ago; ROLE_REQUIRED, they may no longer act as the group.
            Unauthenticated: CREDENTIAL_EXPIRED, the user's token has expired; metadata `on_credential_expiry` says what
                the subject chose for that case (PARK or FAIL).
        """
        # What changes from now on, this principal may not know of.
        issued_at = round(time.time(), 3)
        grant = await read_grant(self._database, grant_id)
        if grant is None or grant.execution_id != execution_id:
            raise NotFound.of("grant", grant_id)
        if grant.revoked_at is not None:
            raise _revoked(execution_id, "was revoked")
        role = await self._role(grant)
        kind, session_id, expires_at = await self._acting(grant, role)
        principal = Principal(
            subject=grant.subject,
            group_id=grant.group_id,
            role=role,
            # An execution never administers the installation, not even one that a platform admin started.
            platform_admin=False,
            credential_kind=kind,
            session_id=session_id,
            execution_id=execution_id,
            expires_at=expires_at,
            issued_at=issued_at,
        )
        return self._signing_keys.signed(await self._limits.with_limits(principal))

    async def _role(self, grant: Grant) -> Role:
        """Return the role of a grant's subject. Raises PermissionDenied: they have none any more."""
        until = grant.claim.seen_at + self._claim_lifetime if grant.claim is not None else None
        lapsed = until is not None and until <= utc_now()
        claimed = {grant.group_id: grant.claim.role} if grant.claim is not None and not lapsed else {}
        token = token_of(grant.subject)
        if token is not None:
            lapsed, claimed = False, await self._claimed_by_token(grant, *token)
        standing = await self._memberships.of(grant.subject, claimed)
        # An admin may keep somebody's work going whose claim has lapsed: they have started it in this group.
        role = standing.roles.get(grant.group_id) or (standing.invitations.get(grant.group_id) if lapsed else None)
        if role is not None:
            return role
        if not lapsed:
            raise _revoked(grant.execution_id, f"belongs to {grant.subject}, who is no longer a member of its group")
        raise _revoked(
            grant.execution_id,
            f"belongs to {grant.subject}, a member of its group only by a claim of a token, which counted until "
            f"{until:%Y-%m-%d %H:%M} UTC; they can start the execution, or save the schedule, again with a fresh "
            "token, or an admin of the group can add them with SetMember",
        )

    async def _claimed_by_token(self, grant: Grant, group_id: str, name: str) -> dict[str, Role]:
        """Return the role of a service token in its group: its own row tells how long it counts."""
        token = await read_named_token(self._database, group_id, name)
        if token is None or token.expires_at <= utc_now():
            raise _revoked(grant.execution_id, f"belongs to {grant.subject}, a token that has expired or was revoked")
        return {group_id: token.role}

    async def _acting(self, grant: Grant, role: Role) -> tuple[CredentialKind, str, datetime]:
        limit = utc_now() + self._principal_lifetime
        if grant.identity is ExecutionIdentity.GROUP:
            return CredentialKind.GROUP, "", limit
        if grant.credential_kind is not CredentialKind.USER:
            return grant.credential_kind, "", limit
        session = await self._sessions.get(grant.session_id)
        if session is not None and session.expires_at - EXPIRY_MARGIN > utc_now():
            return CredentialKind.USER, session.id, min(limit, session.expires_at)
        if grant.on_credential_expiry is OnCredentialExpiry.USE_GROUP_IDENTITY:
            if role < Role.EDITOR:
                raise _role_required(role, "an execution that continues as the group")
            return CredentialKind.GROUP, "", limit
        raise Unauthenticated(
            f'the token of {grant.subject} that the execution "{grant.execution_id}" uses has expired',
            reason="CREDENTIAL_EXPIRED",
            metadata={"execution_id": grant.execution_id, "on_credential_expiry": grant.on_credential_expiry},
        )

    async def renew(self, principal: Principal, execution_id: str) -> datetime:
        """Attach the caller's present token to the grant of their own execution; return until when it can act with it.

        Raises:
            NotFound: the caller has no execution with a grant of that id in this group.
            FailedPrecondition: CREDENTIAL_NOT_CONFIGURED, the grant uses no token, or the caller has none.
            PermissionDenied: DELEGATION_REVOKED, the grant has ended, or the caller acts for an execution.
            Unauthenticated: CREDENTIAL_EXPIRED, the caller's token has expired too; CREDENTIAL_REJECTED, their access
                was revoked after the principal was issued.
        """
        session, claim = await self._basis(principal)
        async with self._database.write() as connection:
            await self._access.hold(connection, principal)
            grants = GrantRepository(connection)
            grant = await grants.of_execution(execution_id)
            if grant is None or (grant.subject, grant.group_id) != (principal.subject, principal.group_id):
                raise NotFound.of("execution of yours", execution_id)
            if grant.identity is not ExecutionIdentity.USER or grant.credential_kind is not CredentialKind.USER:
                raise _no_token(
                    f'the execution "{execution_id}" does not act with a token of yours; it needs no renewal'
                )
            if session is None or session.kind is not CredentialKind.USER:
                raise _no_token("only a token of your own can renew it; sign in with a user token")
            if session.expires_at - EXPIRY_MARGIN <= utc_now():
                raise expired()
            if not await grants.renew(grant.id, session.id, session.expires_at, claim):
                raise _revoked(execution_id, "has ended")
        return session.expires_at

    async def revoke(self, execution_id: str) -> None:
        """End the grant of an execution, if it has one that has not ended."""
        async with self._database.write_once() as connection:
            await GrantRepository(connection).revoke(execution_id, utc_now())

    async def clean(self) -> int:
        """Remove grants that ended before the retention time and return how many."""
        async with self._database.write() as connection:
            return await GrantRepository(connection).delete_revoked(utc_now() - self._retention)


def _resolved(kind: CredentialKind, identity: ExecutionIdentity | None) -> ExecutionIdentity:
    if identity is None:
        return ExecutionIdentity.USER if kind is CredentialKind.USER else ExecutionIdentity.GROUP
    if identity is ExecutionIdentity.USER and kind not in (CredentialKind.USER, CredentialKind.DEV):
        raise _no_token("you have no token of your own that an execution could act with; choose identity GROUP")
    return identity


def _terms(grant: Grant) -> tuple[object, ...]:
    return grant.subject, grant.group_id, grant.identity, grant.on_credential_expiry


def _role_required(role: Role, what: str) -> PermissionDenied:
    return PermissionDenied(
        f"{what} needs the role EDITOR; the subject who starts it has the role {role.name}",
        reason="ROLE_REQUIRED",
        metadata={"required": Role.EDITOR.name, "actual": role.name},
    )


def _revoked(execution_id: str, why: str) -> PermissionDenied:
    return PermissionDenied(
        f'the grant of the execution "{execution_id}" {why}',
        reason="DELEGATION_REVOKED",
        metadata={"execution_id": execution_id},
    )


def _no_token(why: str) -> FailedPrecondition:
    return FailedPrecondition(why, reason="CREDENTIAL_NOT_CONFIGURED", metadata={"purpose": "DELEGATION", "links": ""})
