"""Setting limits of groups, as the operator of the installation does."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1.group_limits_pb2 import GroupLimits, SetGroupLimitsRequest, SetGroupLimitsResponse
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub

OPERATOR = "dev:root:ops=admin,platform_admin"


async def limit(harness: Any, group_id: str = "sales", **limits: Any) -> SetGroupLimitsResponse:
    """Set limits of a group; None is the default again."""
    given = GroupLimits(**{name: value for name, value in limits.items() if value is not None})
    request = SetGroupLimitsRequest(group_id=group_id, limits=given, update_mask=FieldMask(paths=list(limits)))
    response: SetGroupLimitsResponse = await GroupServiceStub(harness.channel(OPERATOR)).SetGroupLimits(request)
    return response
