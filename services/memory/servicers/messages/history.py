"""Former versions of records, and how long they are kept, as messages."""

from coxswain.memory.v1 import record_version_pb2 as pb
from services.common.grpc.enums import enum_to_proto
from services.common.grpc.times import timestamp_to_proto
from services.memory.domain.history import HistoryPolicy, RecordVersion
from services.memory.domain.subjects import UNKNOWN
from services.memory.servicers.messages.records import record_to_proto
from services.memory.usecases.record_history import HistoryLimits


def version_to_proto(version: RecordVersion) -> pb.RecordVersion:
    """Return the message of a version."""
    return pb.RecordVersion(
        record=record_to_proto(version.record),
        begin_time=timestamp_to_proto(version.begun_at),
        end_time=timestamp_to_proto(version.ended_at),
        end=enum_to_proto(pb.VersionEnd, version.end),
        changed_by=version.changed_by,
        saved_by=[subject for subject in version.record.subjects if subject != UNKNOWN],
    )


def policy_to_proto(policy: HistoryPolicy, limits: HistoryLimits) -> pb.HistoryPolicy:
    """Return the message of a policy."""
    return pb.HistoryPolicy(
        days=policy.days,
        is_default=policy.is_default,
        most_days=limits.most_days,
        versions_per_record=limits.versions,
        bytes_per_group=limits.most_bytes,
    )
