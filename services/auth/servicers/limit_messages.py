"""Between limits of groups and their messages."""

from collections.abc import Iterable, Sequence

from coxswain.auth.v1 import group_limits_pb2
from services.common.grpc.group_traffic import SharedTraffic, Traffic
from services.common.identity.group_limits import GroupLimits


def limits_to_proto(limits: GroupLimits) -> group_limits_pb2.GroupLimits:
    """Return limits; what is None is absent."""
    return group_limits_pb2.GroupLimits(**limits.to_claim())  # type: ignore[arg-type]


def limits_from_proto(message: group_limits_pb2.GroupLimits) -> GroupLimits:
    """Return the limits of a message."""
    return GroupLimits.from_claim({field.name: value for field, value in message.ListFields()})


def traffic_from_proto(messages: Iterable[group_limits_pb2.GroupTraffic]) -> list[Traffic]:
    """Return what a process has seen of groups."""
    return [Traffic(each.group_id, each.calls, each.open_streams) for each in messages]


def shared_to_proto(shared: Sequence[SharedTraffic]) -> list[group_limits_pb2.SharedGroupTraffic]:
    """Return what is left to all processes."""
    return [
        group_limits_pb2.SharedGroupTraffic(calls_left=each.calls_left, other_streams=each.other_streams)
        for each in shared
    ]
