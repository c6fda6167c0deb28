"""GroupService at the edge."""

from coxswain.auth.v1 import access_change_pb2, group_limits_pb2, group_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceServicer
from services.auth.servicers.messages import group_to_proto, member_to_proto, role_from_proto
from services.auth.usecases.access import Access
from services.auth.usecases.group_limits import LimitsOfGroups
from services.auth.usecases.group_traffic import SharedGroupTraffic
from services.auth.usecases.groups import Groups
from services.common.db.idempotency import request_key
from services.common.grpc.call import current_principal
from services.common.grpc.field_masks import mask_paths
from services.common.grpc.handler import Context
from services.common.grpc.limit_messages import limits_from_proto, limits_to_proto
from services.common.grpc.times import timestamp_to_proto
from services.common.identity.group_limits import LIMIT_NAMES


class GroupServicer(GroupServiceServicer):
    """Groups, members, roles and limits."""

    def __init__(self, groups: Groups, access: Access, limits: LimitsOfGroups, traffic: SharedGroupTraffic) -> None:
        self._groups = groups
        self._access = access
        self._limits = limits
        self._traffic = traffic

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
        ended_tokens = await self._groups.remove_member(current_principal(), request.subject)
        return group_pb2.RemoveMemberResponse(ended_service_tokens=ended_tokens)

    async def RevokeAccess(
        self, request: access_change_pb2.RevokeAccessRequest, context: Context
    ) -> access_change_pb2.RevokeAccessResponse:
        """See the proto."""
        moment, ended, ended_tokens = await self._access.revoke(request.subject, current_principal().group_id)
        return access_change_pb2.RevokeAccessResponse(
            revoke_time=timestamp_to_proto(moment), ended_grants=ended, ended_service_tokens=ended_tokens
        )

    async def RevokeAccessEverywhere(
        self, request: access_change_pb2.RevokeAccessEverywhereRequest, context: Context
    ) -> access_change_pb2.RevokeAccessEverywhereResponse:
        """See the proto."""
        moment, ended, ended_tokens = await self._access.revoke(request.subject, "")
        return access_change_pb2.RevokeAccessEverywhereResponse(
            revoke_time=timestamp_to_proto(moment), ended_grants=ended, ended_service_tokens=ended_tokens
        )

    async def ListMembers(
        self, request: group_pb2.ListMembersRequest, context: Context
    ) -> group_pb2.ListMembersResponse:
        """See the proto."""
        page = await self._groups.members_page(current_principal().group_id, request.page_size, request.page_token)
        return group_pb2.ListMembersResponse(
            members=map(member_to_proto, page.items), next_page_token=page.next_page_token
        )

    async def SetGroupLimits(
        self, request: group_limits_pb2.SetGroupLimitsRequest, context: Context
    ) -> group_limits_pb2.SetGroupLimitsResponse:
        """See the proto."""
        cleared = mask_paths(request.clear_lowered, LIMIT_NAMES, name="clear_lowered", required=False)
        names = mask_paths(request.update_mask, LIMIT_NAMES, required=not cleared)
        limits = await self._limits.set(request.group_id, limits_from_proto(request.limits), names, cleared)
        return group_limits_pb2.SetGroupLimitsResponse(
            set=limits_to_proto(limits.set),
            effective=limits_to_proto(limits.effective),
            lowered=limits_to_proto(limits.lowered),
        )

    async def LowerGroupLimits(
        self, request: group_limits_pb2.LowerGroupLimitsRequest, context: Context
    ) -> group_limits_pb2.LowerGroupLimitsResponse:
        """See the proto."""
        names = mask_paths(request.update_mask, LIMIT_NAMES)
        limits = await self._limits.lower(current_principal().group_id, limits_from_proto(request.limits), names)
        return group_limits_pb2.LowerGroupLimitsResponse(
            lowered=limits_to_proto(limits.lowered), effective=limits_to_proto(limits.effective)
        )

    async def GetGroupLimits(
        self, request: group_limits_pb2.GetGroupLimitsRequest, context: Context
    ) -> group_limits_pb2.GetGroupLimitsResponse:
        """See the proto."""
        limits = await self._limits.get(current_principal(), request.group_id, self._traffic)
        return group_limits_pb2.GetGroupLimitsResponse(
            group_id=limits.group_id,
            effective=limits_to_proto(limits.effective),
            set=limits_to_proto(limits.set),
            used=limits_to_proto(limits.used),
            lowered=limits_to_proto(limits.lowered),
        )
