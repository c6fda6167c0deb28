"""Where a subject may act."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from services.auth.repositories import groups
from services.common.db.database import Database
from services.common.identity.principal import Role


@dataclass(frozen=True, slots=True)
class Places:
    """The groups a subject may choose from."""

    roles: Mapping[str, Role]
    platform_admin: bool


class Memberships:
    """Joins stored memberships with those a credential carries."""

    def __init__(self, database: Database, *, claims_first: bool, platform_admins: Collection[str] = ()) -> None:
        """`claims_first`: what a credential says goes before what is stored, and its groups need not exist (dev mode).

        Otherwise a stored membership goes first, and a credential opens only groups that exist. `platform_admins` are
        subjects that administer the installation beside stored ones.
        """
        self._platform_admins = frozenset(platform_admins)
        self._database = database
        self._claims_first = claims_first

    async def of(self, subject: str, claimed: Mapping[str, Role]) -> Places:
        """Return where a subject may act now."""
        async with self._database.read() as connection:
            stored, platform_admin = await groups.standing_of(connection, subject)
            if not self._claims_first and claimed:
                existing = await groups.existing(connection, set(claimed))
                claimed = {group_id: role for group_id, role in claimed.items() if group_id in existing}
        roles = stored | dict(claimed) if self._claims_first else dict(claimed) | stored
        return Places(dict(sorted(roles.items())), platform_admin or subject in self._platform_admins)
