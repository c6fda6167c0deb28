"""The groups in which a subject may act."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from services.auth.repositories.groups import read_existing
from services.auth.repositories.members import MemberRepository, read_roles
from services.common import audit
from services.common.db.database import Database
from services.common.identity.principal import Role


@dataclass(frozen=True, slots=True)
class Standing:
    """A subject's roles by group id, in the order of the ids, and whether they administer the installation."""

    roles: Mapping[str, Role]
    invitations: Mapping[str, Role]
    """Roles that were offered, and count for nothing until the subject names the group in a call."""
    set_for_claims: frozenset[str]
    """Groups of `roles` by a claim, for which an admin has set a role that is not noted as accepted yet."""
    platform_admin: bool


class Memberships:
    """Joins stored memberships with those a credential carries."""

    def __init__(self, database: Database, *, claims_first: bool, platform_admins: Collection[str] = ()) -> None:
        """`claims_first`: a credential's own claims override stored memberships, and its groups need not exist (dev).

        Otherwise stored memberships override claims, and a claim counts only for a group that exists.
        `platform_admins` are subjects that administer the installation in addition to the stored ones.
        """
        self._platform_admins = frozenset(platform_admins)
        self._database = database
        self._claims_first = claims_first

    async def of(self, subject: str, claimed: Mapping[str, Role]) -> Standing:
        """Return the roles a subject has now."""
        stored = await read_roles(self._database, subject)
        if not self._claims_first and claimed:
            existing = await read_existing(self._database, set(claimed))
            claimed = {group_id: role for group_id, role in claimed.items() if group_id in existing}
        # Who is a member by a claim has nothing to accept: what an admin has set for them counts at once.
        set_for_claimed = {group_id: role for group_id, role in stored.invited.items() if group_id in claimed}
        accepted = stored.accepted | set_for_claimed
        roles = accepted | dict(claimed) if self._claims_first else dict(claimed) | accepted
        invitations = {group_id: role for group_id, role in stored.invited.items() if group_id not in roles}
        return Standing(
            dict(sorted(roles.items())),
            dict(sorted(invitations.items())),
            frozenset(set_for_claimed),
            stored.platform_admin or subject in self._platform_admins,
        )

    async def accept(self, subject: str, group_id: str) -> Role | None:
        """Make an invitation a membership, and return its role; None if it has been taken back."""
        async with self._database.write() as connection:
            role = await MemberRepository(connection).accept(group_id, subject)
        if role is not None:
            audit.record("member_accepted", subject=subject, group_id=group_id, role=role.name, outcome="OK")
        return role
