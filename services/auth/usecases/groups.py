"""Groups and their members."""

from dataclasses import replace

from services.auth import tables
from services.auth.domain import Group, Member
from services.auth.repositories.access_changes import AccessChangeRepository
from services.auth.repositories.groups import GroupRepository
from services.auth.repositories.members import MemberRepository
from services.auth.repositories.platform_admins import PlatformAdminRepository
from services.auth.usecases.access import Access
from services.auth.usecases.ended_tokens import end_tokens_of
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.db.row_quota import check_row_quota
from services.common.errors import FailedPrecondition, NotFound, PermissionDenied
from services.common.identity.access_changes import EVERYBODY
from services.common.identity.principal import Principal, Role
from services.common.ids import new_id
from services.common.paging import Page, Pager

_GROUPS = Pager("groups")
_MEMBERS = Pager("members")


class Groups:
    """Creates and deletes groups, and administers their members."""

    def __init__(self, database: Database, access: Access, *, make_missing: bool) -> None:
        """`make_missing`: a caller's group that is not stored is stored when a member is set (dev mode)."""
        self._database = database
        self._access = access
        self._make_missing = make_missing

    async def create(self, display_name: str, admin_subject: str, request: RequestKey | None) -> Group:
        """Create a group with its first admin; a repeated `request` returns the group of the first one.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED, the request_id came with another body.
            NotFound: the group of the first request has been deleted since.
        """
        group = Group(new_id(), display_name, utc_now())
        async with self._database.write() as connection:
            groups = GroupRepository(connection)
            if request is not None:
                # The caller may call from any group, or from none.
                request = replace(request, group_id="")
                first_id = await RequestRepository(connection, tables.requests).claim(request, group.id)
                if first_id != group.id:
                    standing = await groups.get(first_id)
                    if standing is None:
                        raise NotFound(f'the group "{first_id}" that this request created has been deleted')
                    return standing
            await groups.add(group)
            await MemberRepository(connection).put(group.id, admin_subject, Role.ADMIN, invited=False)
        return group

    async def page(self, size: int, token: str) -> Page[Group]:
        """Return a page of all groups, by id.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            groups = GroupRepository(connection)
            return await _GROUPS.page(
                size,
                token,
                {},
                lambda after, limit: groups.page(after[0] if after else "", limit),
                lambda group: [group.id],
            )

    async def delete(self, group_id: str, confirm_id: str) -> None:
        """Remove a group with its memberships, secrets and grants.

        Raises:
            FailedPrecondition: CONFIRMATION_MISMATCH.
            NotFound: the group does not exist.
        """
        if group_id != confirm_id:
            raise FailedPrecondition(
                "confirm_id must repeat id; nothing was deleted",
                reason="CONFIRMATION_MISMATCH",
                metadata={"expected_field": "confirm_id"},
            )
        async with self._database.write() as connection:
            if not await GroupRepository(connection).delete(group_id):
                raise NotFound(f'there is no group "{group_id}"', metadata={"resource": "group", "id": group_id})
            await AccessChangeRepository(connection).revoke(EVERYBODY, group_id, utc_now())

    async def set_member(self, principal: Principal, subject: str, role: Role) -> Member:
        """Invite a subject to the principal's group, or change the role of a member.

        Raises:
            FailedPrecondition: RESOURCE_IN_USE, the group would have no admin left.
            NotFound: the group has been deleted.
            ResourceExhausted: QUOTA_EXCEEDED, it has as many members as it may, or has changed too many lately.
        """
        group_id = principal.group_id
        async with self._database.write() as connection:
            groups, members = GroupRepository(connection), MemberRepository(connection)
            if self._make_missing:
                await groups.add(Group(group_id, group_id, utc_now()))
            if not await groups.lock(group_id):
                raise NotFound.of("group", group_id)
            standing = await members.get(group_id, subject)
            if _is_admin(standing) and role is not Role.ADMIN:
                await _keep_an_admin(members, group_id, subject)
            if standing is None:
                limit, column = principal.limits.max_members, tables.memberships.c.group_id
                await check_row_quota(connection, "max_members", limit, column, group_id, what="members")
                await self._access.require_room(connection, subject, group_id)
            if standing is None or standing.role is not role:
                await AccessChangeRepository(connection).note(subject, group_id, utc_now())
            return await members.put(group_id, subject, role, invited=subject != principal.subject)

    async def remove_member(self, principal: Principal, subject: str) -> int:
        """End a membership in the principal's group: somebody else's as an admin, their own with any role.

        Returns how many service tokens that they made there have ended with it.

        Raises:
            FailedPrecondition: RESOURCE_IN_USE, they are the last admin.
            NotFound: they are not a member.
            PermissionDenied: ROLE_REQUIRED.
        """
        if subject != principal.subject and principal.role < Role.ADMIN:
            raise PermissionDenied(
                f"to remove others needs the role ADMIN; you are {principal.role.name} of this group, and may remove "
                f'yourself: "{principal.subject}"',
                reason="ROLE_REQUIRED",
                metadata={"required": Role.ADMIN.name, "actual": principal.role.name},
            )
        group_id = principal.group_id
        async with self._database.write() as connection:
            await GroupRepository(connection).lock(group_id)
            members = MemberRepository(connection)
            standing = await members.get(group_id, subject)
            if standing is None:
                raise NotFound.of("member", subject)
            if _is_admin(standing):
                await _keep_an_admin(members, group_id, subject)
            await members.remove(group_id, subject)
            ended_tokens = await end_tokens_of(connection, subject, group_id)
            await AccessChangeRepository(connection).note(subject, group_id, utc_now())
        return ended_tokens

    async def members_page(self, group_id: str, size: int, token: str) -> Page[Member]:
        """Return a page of a group's members, by subject.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            members = MemberRepository(connection)
            return await _MEMBERS.page(
                size,
                token,
                {"group_id": group_id},
                lambda after, limit: members.page(group_id, after[0] if after else "", limit),
                lambda member: [member.subject],
            )

    async def bootstrap(self, admin_subject: str, group_id: str) -> bool:
        """Store the first platform admin, and a first group with them as its admin; return whether that was needed."""
        async with self._database.write() as connection:
            admins, groups = PlatformAdminRepository(connection), GroupRepository(connection)
            if await admins.any_exists():
                return False
            await admins.add(admin_subject)
            if not await groups.any_exists():
                await groups.add(Group(group_id, group_id, utc_now()))
                await MemberRepository(connection).put(group_id, admin_subject, Role.ADMIN, invited=False)
        return True

    async def administered(self) -> bool:
        """Return whether the installation has a stored platform admin."""
        async with self._database.read() as connection:
            return await PlatformAdminRepository(connection).any_exists()


def _is_admin(member: Member | None) -> bool:
    return member is not None and member.role is Role.ADMIN and not member.invited


async def _keep_an_admin(members: MemberRepository, group_id: str, subject: str) -> None:
    if not await members.other_admins(group_id, subject):
        raise FailedPrecondition(
            f'"{subject}" is the last admin of the group; make another member an admin first (who is only invited is '
            "none yet)",
            reason="RESOURCE_IN_USE",
            metadata={"resource": "member", "id": subject, "used_by": f"group {group_id}"},
        )
