"""Groups and their members."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain import Group, Member
from services.auth.repositories import groups, requests
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound
from services.common.identity.principal import Principal, Role
from services.common.ids import new_id
from services.common.paging import cut_page, decode_page_token, page_size

_CREATE = "CreateGroup"
_LIST_GROUPS = "ListGroups"
_LIST_MEMBERS = "ListMembers"


class Groups:
    """Makes and removes groups, and says who is in them."""

    def __init__(self, database: Database, *, make_missing: bool, request_retention: float) -> None:
        """`make_missing`: a group that a caller is in without its being stored gets stored (dev mode).

        `request_retention` is in seconds: how long a request_id is remembered.
        """
        self._database = database
        self._request_retention = timedelta(seconds=request_retention)
        self._make_missing = make_missing

    async def create(
        self, principal: Principal, display_name: str, admin_subject: str, request_id: str, request_hash: str
    ) -> Group:
        """Make a group with its first admin; a repeated `request_id` returns the group of the first request.

        Raises:
            AlreadyExists: REQUEST_ID_REUSED, the request_id came with another body.
            NotFound: the group of the first request has been deleted since.
        """
        group = Group(new_id(), display_name, utc_now())
        async with self._database.write() as connection:
            if request_id:
                key = ("", principal.subject, _CREATE, request_id)
                first_hash, first_id = await requests.claim(connection, key, request_hash, group.id)
                if first_hash != request_hash:
                    raise AlreadyExists.request_id(request_id)
                if first_id != group.id:
                    standing = await groups.get(connection, first_id)
                    if standing is None:
                        raise NotFound(f'the group "{first_id}" that this request made has been deleted')
                    return standing
            await groups.add(connection, group)
            await groups.set_member(connection, group.id, admin_subject, Role.ADMIN)
        return group

    async def forget_requests(self) -> int:
        """Forget the request_ids of groups made long ago and return how many."""
        return await requests.forget(self._database, utc_now() - self._request_retention)

    async def page(self, size: int, token: str) -> tuple[Sequence[Group], str]:
        """Return a page of all groups by id, and the token of the next one.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        key = decode_page_token(token, _LIST_GROUPS, {})
        limit = page_size(size)
        async with self._database.read() as connection:
            found = await groups.page(connection, key[0] if key else "", limit + 1)
        return cut_page(found, limit, _LIST_GROUPS, {}, lambda group: [group.id])

    async def delete(self, group_id: str, confirm_id: str) -> None:
        """Remove a group with its memberships, secrets and grants.

        Raises:
            FailedPrecondition: CONFIRMATION_MISMATCH.
            NotFound: there is no such group.
        """
        if group_id != confirm_id:
            raise FailedPrecondition(
                "confirm_id has to repeat id: nothing was deleted",
                reason="CONFIRMATION_MISMATCH",
                metadata={"expected_field": "confirm_id"},
            )
        async with self._database.write() as connection:
            if not await groups.delete_group(connection, group_id):
                raise NotFound(f'there is no group "{group_id}"', metadata={"resource": "group", "id": group_id})

    async def set_member(self, group_id: str, subject: str, role: Role) -> Member:
        """Make a subject a member, or change their role.

        Raises:
            FailedPrecondition: RESOURCE_IN_USE, the last admin would be none any more.
            NotFound: the group has been deleted.
        """
        async with self._database.write() as connection:
            if self._make_missing:
                await groups.add(connection, Group(group_id, group_id, utc_now()))
            if not await groups.lock(connection, group_id):
                raise NotFound.of("group", group_id)
            standing = await groups.get_member(connection, group_id, subject)
            if standing is not None and standing.role is Role.ADMIN and role is not Role.ADMIN:
                await _keep_an_admin(connection, group_id, subject)
            return await groups.set_member(connection, group_id, subject, role)

    async def remove_member(self, group_id: str, subject: str) -> None:
        """End a membership.

        Raises:
            FailedPrecondition: RESOURCE_IN_USE, they are the last admin.
            NotFound: they are no member.
        """
        async with self._database.write() as connection:
            await groups.lock(connection, group_id)
            standing = await groups.get_member(connection, group_id, subject)
            if standing is None:
                raise NotFound.of("member", subject)
            if standing.role is Role.ADMIN:
                await _keep_an_admin(connection, group_id, subject)
            await groups.remove_member(connection, group_id, subject)

    async def members_page(self, group_id: str, size: int, token: str) -> tuple[Sequence[Member], str]:
        """Return a page of a group's members by subject, and the token of the next one.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        filters = {"group_id": group_id}
        key = decode_page_token(token, _LIST_MEMBERS, filters)
        limit = page_size(size)
        async with self._database.read() as connection:
            found = await groups.members_page(connection, group_id, key[0] if key else "", limit + 1)
        return cut_page(found, limit, _LIST_MEMBERS, filters, lambda member: [member.subject])

    async def bootstrap(self, admin_subject: str, group_id: str) -> bool:
        """Make the first platform admin, and a first group with them as its admin; return whether that was needed."""
        async with self._database.write() as connection:
            if await groups.any_platform_admin(connection):
                return False
            await groups.add_platform_admin(connection, admin_subject)
            if not await groups.any_exists(connection):
                await groups.add(connection, Group(group_id, group_id, utc_now()))
                await groups.set_member(connection, group_id, admin_subject, Role.ADMIN)
        return True

    async def administered(self) -> bool:
        """Return whether anybody administers the installation."""
        async with self._database.read() as connection:
            return await groups.any_platform_admin(connection)


async def _keep_an_admin(connection: AsyncConnection, group_id: str, subject: str) -> None:
    if not await groups.other_admins(connection, group_id, subject):
        raise FailedPrecondition(
            f'"{subject}" is the last admin of the group; make somebody else an admin first',
            reason="RESOURCE_IN_USE",
            metadata={"resource": "member", "id": subject, "used_by": f"group {group_id}"},
        )
