"""The role that each command needs, as its help says it: that of the method it calls, by the method's own option."""

from collections.abc import Mapping

_ANYBODY = frozenset(
    {
        "call",
        "context delete",
        "context list",
        "context use",
        "doctor",
        "login",
        "logout",
        "memory index schema",
        "status",
        "tool provider check",
        "up",
        "version",
        "whoami",
    }
)
"""Commands that call nothing, or nothing that a role is asked for, or that show what they may."""
_OPERATOR = "operator"
_METHODS: Mapping[str, Mapping[str, str]] = {
    "apply": {"": "UpdateCrew"},
    "batch delete": {"": "DeleteBatch"},
    "budget delete": {"": "DeleteBudget"},
    "budget set": {"": "SetBudget", "with --ceiling-of": "SetBudgetCeiling"},
    "crews delete": {"": "DeleteCrew"},
    "crews publish": {"": "UpdateCrew"},
    "crews unpublish": {"": "UpdateCrew"},
    "delete": {"": "DeleteExecution"},
    "fallbacks": {"": "GetModel", "to choose them": "UpdateModel"},
    "groups create": {"": "CreateGroup"},
    "groups delete": {"": "DeleteGroup"},
    "groups list": {"": "ListGroups"},
    "limits lower": {"": "LowerGroupLimits"},
    "limits set": {"": "SetGroupLimits"},
    "member revoke": {"": "RevokeAccess", "with --everywhere": "RevokeAccessEverywhere"},
    "member set": {"": "SetMember"},
    "memory adopt": {"": "AdoptIndex"},
    "memory backend activate": {"": "ActivateMemoryBackend"},
    "memory backend create": {"": "CreateMemoryBackend"},
    "memory backend delete": {"": "DeleteMemoryBackend"},
    "memory backend provision": {"": "ProvisionMemoryBackend"},
    "memory backend update": {"": "UpdateMemoryBackend"},
    "memory backend verify": {"": "VerifyMemoryBackend"},
    "memory clear": {"": "ClearNamespace"},
    "memory forget": {"": "ForgetSubject"},
    "memory history-policy": {"": "GetHistoryPolicy", "to change it": "SetHistoryPolicy"},
    "memory index create": {"": "CreateIndex"},
    "memory index delete": {"": "DeleteIndex"},
    "memory index empty": {"": "EmptyIndex"},
    "models create": {"": "CreateModel"},
    "models delete": {"": "DeleteModel"},
    "models disable": {"": "SetModelEnabled"},
    "models enable": {"": "SetModelEnabled"},
    "retention": {"": "GetExecutionRetention", "to choose it": "SetExecutionRetention"},
    "run": {"": "StartExecution", "with --file": "UpdateCrew"},
    "schedule create": {"": "CreateSchedule"},
    "schedule delete": {"": "DeleteSchedule"},
    "schedule pause": {"": "UpdateSchedule"},
    "schedule resume": {"": "UpdateSchedule"},
    "schedule update": {"": "UpdateSchedule"},
    "secret delete": {"": "DeleteSecret"},
    "secret list": {"": "ListSecrets"},
    "secret put": {"": "PutSecret"},
    "tokens create": {"": "CreateServiceToken"},
    "tokens list": {"": "ListServiceTokens"},
    "tokens revoke": {"": "RevokeServiceToken"},
    "tool source accept": {"": "AcceptToolChanges"},
    "tool source create": {"": "CreateToolSource"},
    "tool source delete": {"": "DeleteToolSource"},
    "tool source update": {"": "UpdateToolSource"},
    "tool test": {"": "TestTool"},
    "webhooks create": {"": "CreateWebhook"},
    "webhooks delete": {"": "DeleteWebhook"},
    "webhooks deliveries": {"": "ListWebhookDeliveries"},
    "webhooks list": {"": "ListWebhooks"},
    "webhooks retry": {"": "RetryWebhookDelivery"},
    "webhooks rotate": {"": "RotateWebhookSigningKey"},
    "webhooks show": {"": "GetWebhook"},
    "webhooks update": {"": "UpdateWebhook"},
}
"""The method that decides, by command and by when it is called; empty: always. Others need the role operator."""


def roles_of(command: str) -> dict[str, str]:
    """The role that a command needs, by when it does; empty where anybody may use it.

    Examples: {"": "admin"} of `secret put`; {"": "operator", "to choose it": "admin"} of `retention`.
    """
    if command in _ANYBODY:
        return {}
    if command not in _METHODS:
        return {"": _OPERATOR}
    # Help of what operators may do needs no descriptors.
    from coxswain.client.cli.roles import role_name
    from coxswain.client.policy import methods
    from coxswain.common.v1.access_pb2 import role

    needed = {method.name: method.GetOptions().Extensions[role] for method in methods()}
    return {when: role_name(needed[name]).replace("_", " ") for when, name in _METHODS[command].items()}


def role_line(command: str) -> str:
    """What the help of a command says of roles; empty where anybody may use it."""
    roles = roles_of(command)
    if not roles:
        return ""
    return f"Needs the role {', '.join(f'{when} {role}'.strip() for when, role in roles.items())}."
