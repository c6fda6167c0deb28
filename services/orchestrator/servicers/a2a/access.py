"""Who may call the methods of A2A: its proto cannot carry our options."""

from dataclasses import replace

from services.common.grpc.access import ForeignService, MethodAccess
from services.common.identity.principal import Role

_READS = MethodAccess(internal=False, role=Role.OPERATOR, repeatable=True)
_SENDS = MethodAccess(internal=False, role=Role.OPERATOR, repeatable=False, audited=True)
_SENDS_AND_WAITS = replace(_SENDS, waits=True)
_REPEATABLE = MethodAccess(internal=False, role=Role.OPERATOR, repeatable=True, audited=True)

A2A_SERVICE = ForeignService(
    owner="orchestrator",
    methods={
        # Whoever answers an approval needs the role that the question names besides.
        "SendMessage": _SENDS_AND_WAITS,
        "SendStreamingMessage": _SENDS,
        "GetTask": _READS,
        "ListTasks": _READS,
        "CancelTask": _REPEATABLE,
        "SubscribeToTask": _READS,
        "CreateTaskPushNotificationConfig": _SENDS,
        "GetTaskPushNotificationConfig": _READS,
        "ListTaskPushNotificationConfigs": _READS,
        "DeleteTaskPushNotificationConfig": _REPEATABLE,
        "GetExtendedAgentCard": _READS,
    },
)

A2A_SERVICE_03 = ForeignService(
    owner="orchestrator",
    methods={
        "SendMessage": _SENDS_AND_WAITS,
        "SendStreamingMessage": _SENDS,
        "GetTask": _READS,
        "CancelTask": _REPEATABLE,
        "TaskSubscription": _READS,
        "CreateTaskPushNotificationConfig": _SENDS,
        "GetTaskPushNotificationConfig": _READS,
        "ListTaskPushNotificationConfig": _READS,
        "DeleteTaskPushNotificationConfig": _REPEATABLE,
        "GetAgentCard": _READS,
    },
)
"""The service of version 0.3."""
