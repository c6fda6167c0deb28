"""Between auth's domain and its messages."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.auth.v1 import principal_pb2
from services.common.identity.principal import Principal


def timestamp(moment: datetime) -> Timestamp:
    """Return a moment as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def principal_message(principal: Principal) -> principal_pb2.Principal:
    """Return what a principal says, without its token."""
    return principal_pb2.Principal(
        subject=principal.subject,
        group_id=principal.group_id,
        role=int(principal.role) if principal.group_id else 0,  # type: ignore[arg-type]
        platform_admin=principal.platform_admin,
        credential_kind=int(principal.credential_kind),  # type: ignore[arg-type]
        execution_id=principal.execution_id,
        expire_time=timestamp(principal.expires_at),
    )
