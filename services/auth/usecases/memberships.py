"""The groups in which a subject may act."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from services.auth.repositories.groups import read_existing
from services.auth.repositories.members import read_roles
from services.common.db.database import Database
from services.common.identity.principal import Role


@dataclass(frozen=True, slots=True)
class Standing:
    """A subject's roles by group id, in the order of the ids, and whether they administer the installation."""

    roles: Mapping[str, Role]
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
        stored, platform_admin = await read_roles(self._database, subject)
        if not self._claims_first and claimed:
            existing = await read_existing(self._database, set(claimed))
            claimed = {group_id: role for group_id, role in claimed.items() if group_id in existing}
        roles = stored | dict(claimed) if self._claims_first else dict(claimed) | stored
        return Standing(dict(sorted(roles.items())), platform_admin or subject in self._platform_admins)
