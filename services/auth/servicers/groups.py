"""GroupService at the edge."""

from coxswain.auth.v1 import group_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceServicer
from services.auth.servicers.messages import group_to_proto, member_to_proto, role_from_proto
from services.auth.usecases.groups import Groups
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context


class GroupServicer(GroupServiceServicer):
    """Groups, members and roles."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    async def CreateGroup(
        self, request: group_pb2.CreateGroupRequest, context: Context
    ) -> group_pb2.CreateGroupResponse:
        """See the proto."""
        group = await self._groups.create(
            request.display_name, request.admin_subject, request_key(current_principal(), request)
        )
        return group_pb2.CreateGroupResponse(group=group_to_proto(group))

    async def ListGroups(self, request: group_pb2.ListGroupsRequest, context: Context) -> group_pb2.ListGroupsResponse:
        """See the proto."""
        page = await self._groups.page(request.page_size, request.page_token)
        return group_pb2.ListGroupsResponse(
            groups=map(group_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def DeleteGroup(
        self, request: group_pb2.DeleteGroupRequest, context: Context
    ) -> group_pb2.DeleteGroupResponse:
        """See the proto."""
        await self._groups.delete(request.id, request.confirm_id)
        return group_pb2.DeleteGroupResponse()

    async def SetMember(self, request: group_pb2.SetMemberRequest, context: Context) -> group_pb2.SetMemberResponse:
        """See the proto."""
        member = await self._groups.set_member(current_principal(), request.subject, role_from_proto(request.role))
        return group_pb2.SetMemberResponse(member=member_to_proto(member))

    async def RemoveMember(
        self, request: group_pb2.RemoveMemberRequest, context: Context
    ) -> group_pb2.RemoveMemberResponse:
        """See the proto."""
        await self._groups.remove_member(current_principal(), request.subject)
        return group_pb2.RemoveMemberResponse()

    async def ListMembers(
        self, request: group_pb2.ListMembersRequest, context: Context
    ) -> group_pb2.ListMembersResponse:
        """See the proto."""
        page = await self._groups.members_page(current_principal().group_id, request.page_size, request.page_token)
        return group_pb2.ListMembersResponse(
            members=map(member_to_proto, page.items), next_page_token=page.next_page_token
        )
