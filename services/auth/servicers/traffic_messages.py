"""Between the traffic of groups and its messages."""

from collections.abc import Iterable, Sequence

from coxswain.auth.v1 import group_limits_pb2
from services.common.grpc.group_traffic import SharedTraffic, Traffic


def traffic_from_proto(messages: Iterable[group_limits_pb2.GroupTraffic]) -> list[Traffic]:
    """Return what a process has seen of groups."""
    return [Traffic(each.group_id, each.calls, each.open_streams) for each in messages]


def shared_to_proto(shared: Sequence[SharedTraffic]) -> list[group_limits_pb2.SharedGroupTraffic]:
    """Return what is left to all processes."""
    return [
        group_limits_pb2.SharedGroupTraffic(calls_left=each.calls_left, other_streams=each.other_streams)
        for each in shared
    ]
