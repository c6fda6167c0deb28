"""GroupService at the edge."""

from coxswain.auth.v1 import group_service_pb2 as pb
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceServicer
from services.auth.domain import Group, Member
from services.auth.servicers.convert import timestamp
from services.auth.usecases.groups import Groups
from services.common.db.idempotency import request_hash
from services.common.grpc.call import current_principal
from services.common.grpc.pipeline import Context
from services.common.identity.principal import Role


class GroupServicer(GroupServiceServicer):
    """Groups, members and roles."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    async def CreateGroup(self, request: pb.CreateGroupRequest, context: Context) -> pb.CreateGroupResponse:
        """See the proto."""
        group = await self._groups.create(
            current_principal(),
            request.display_name,
            request.admin_subject,
            request.request_id,
            request_hash(request, "request_id"),
        )
        return pb.CreateGroupResponse(group=_group(group))

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Context) -> pb.ListGroupsResponse:
        """See the proto."""
        found, token = await self._groups.page(request.page_size, request.page_token)
        return pb.ListGroupsResponse(groups=map(_group, found), next_page_token=token)

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, context: Context) -> pb.DeleteGroupResponse:
        """See the proto."""
        await self._groups.delete(request.id, request.confirm_id)
        return pb.DeleteGroupResponse()

    async def SetMember(self, request: pb.SetMemberRequest, context: Context) -> pb.SetMemberResponse:
        """See the proto."""
        member = await self._groups.set_member(current_principal().group_id, request.subject, Role(request.role))
        return pb.SetMemberResponse(member=_member(member))

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Context) -> pb.RemoveMemberResponse:
        """See the proto."""
        await self._groups.remove_member(current_principal().group_id, request.subject)
        return pb.RemoveMemberResponse()

    async def ListMembers(self, request: pb.ListMembersRequest, context: Context) -> pb.ListMembersResponse:
        """See the proto."""
        found, token = await self._groups.members_page(
            current_principal().group_id, request.page_size, request.page_token
        )
        return pb.ListMembersResponse(members=map(_member, found), next_page_token=token)


def _group(group: Group) -> pb.Group:
    return pb.Group(id=group.id, display_name=group.display_name, create_time=timestamp(group.created_at))


def _member(member: Member) -> pb.Member:
    return pb.Member(subject=member.subject, role=int(member.role), create_time=timestamp(member.created_at))  # type: ignore[arg-type]
