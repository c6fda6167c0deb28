"""Setting limits of groups, as the operator of the installation does and as their admins do."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1.group_limits_pb2 import (
    GroupLimits,
    LowerGroupLimitsRequest,
    LowerGroupLimitsResponse,
    SetGroupLimitsRequest,
    SetGroupLimitsResponse,
)
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub

OPERATOR = "dev:root:ops=admin,platform_admin"
ADMIN = "dev:ada:sales=admin"


async def limit(harness: Any, group_id: str = "sales", **limits: Any) -> SetGroupLimitsResponse:
    """Set limits of a group; None is the default again."""
    request = SetGroupLimitsRequest(group_id=group_id, limits=_given(limits), update_mask=FieldMask(paths=list(limits)))
    response: SetGroupLimitsResponse = await GroupServiceStub(harness.channel(OPERATOR)).SetGroupLimits(request)
    return response


async def lower(harness: Any, bearer: str = ADMIN, **limits: Any) -> LowerGroupLimitsResponse:
    """Lower limits of a group as its admin; None is the operator's again."""
    request = LowerGroupLimitsRequest(limits=_given(limits), update_mask=FieldMask(paths=list(limits)))
    response: LowerGroupLimitsResponse = await GroupServiceStub(harness.channel(bearer)).LowerGroupLimits(request)
    return response


def _given(limits: dict[str, Any]) -> GroupLimits:
    return GroupLimits(**{name: value for name, value in limits.items() if value is not None})
