"""GroupService at the edge."""

from coxswain.auth.v1 import group_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceServicer
from services.auth.domain import Group, Member
from services.auth.servicers.convert import timestamp
from services.auth.usecases.groups import Groups
from services.common.db.idempotency import request_hash
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.identity.principal import Role


class GroupServicer(GroupServiceServicer):
    """Groups, members and roles."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    async def CreateGroup(
        self, request: group_pb2.CreateGroupRequest, context: Context
    ) -> group_pb2.CreateGroupResponse:
        """See the proto."""
        group = await self._groups.create(
            current_principal(),
            request.display_name,
            request.admin_subject,
            request.request_id,
            request_hash(request, "request_id"),
        )
        return group_pb2.CreateGroupResponse(group=_group(group))

    async def ListGroups(self, request: group_pb2.ListGroupsRequest, context: Context) -> group_pb2.ListGroupsResponse:
        """See the proto."""
        found, token = await self._groups.page(request.page_size, request.page_token)
        return group_pb2.ListGroupsResponse(groups=map(_group, found), next_page_token=token)

    async def DeleteGroup(
        self, request: group_pb2.DeleteGroupRequest, context: Context
    ) -> group_pb2.DeleteGroupResponse:
        """See the proto."""
        await self._groups.delete(request.id, request.confirm_id)
        return group_pb2.DeleteGroupResponse()

    async def SetMember(self, request: group_pb2.SetMemberRequest, context: Context) -> group_pb2.SetMemberResponse:
        """See the proto."""
        member = await self._groups.set_member(current_principal().group_id, request.subject, Role(request.role))
        return group_pb2.SetMemberResponse(member=_member(member))

    async def RemoveMember(
        self, request: group_pb2.RemoveMemberRequest, context: Context
    ) -> group_pb2.RemoveMemberResponse:
        """See the proto."""
        await self._groups.remove_member(current_principal().group_id, request.subject)
        return group_pb2.RemoveMemberResponse()

    async def ListMembers(
        self, request: group_pb2.ListMembersRequest, context: Context
    ) -> group_pb2.ListMembersResponse:
        """See the proto."""
        found, token = await self._groups.members_page(
            current_principal().group_id, request.page_size, request.page_token
        )
        return group_pb2.ListMembersResponse(members=map(_member, found), next_page_token=token)


def _group(group: Group) -> group_pb2.Group:
    return group_pb2.Group(id=group.id, display_name=group.display_name, create_time=timestamp(group.created_at))


def _member(member: Member) -> group_pb2.Member:
    return group_pb2.Member(subject=member.subject, role=int(member.role), create_time=timestamp(member.created_at))  # type: ignore[arg-type]
