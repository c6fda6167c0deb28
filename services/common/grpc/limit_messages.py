"""Between limits of groups and their messages."""

from coxswain.auth.v1 import group_limits_pb2
from services.common.identity.group_limits import GroupLimits


def limits_to_proto(limits: GroupLimits) -> group_limits_pb2.GroupLimits:
    """Return limits; what is None is absent."""
    return group_limits_pb2.GroupLimits(**limits.to_claim())  # type: ignore[arg-type]


def limits_from_proto(message: group_limits_pb2.GroupLimits) -> GroupLimits:
    """Return the limits of a message."""
    return GroupLimits.from_claim({field.name: value for field, value in message.ListFields()})
