"""The role that each command needs, as its help says it: that of the method it calls.

It is written down here because the methods' own options are in descriptors, which help has no time to load.
"""

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
_ROLES: Mapping[str, Mapping[str, str]] = {
    "apply": {"": "editor"},
    "batch delete": {"": "editor"},
    "budget delete": {"": "admin"},
    "budget set": {"": "admin", "with --ceiling-of": "platform admin"},
    "crews delete": {"": "editor"},
    "crews publish": {"": "editor"},
    "crews unpublish": {"": "editor"},
    "delete": {"": "editor"},
    "fallbacks": {"": "operator", "to choose them": "admin"},
    "groups create": {"": "platform admin"},
    "groups delete": {"": "platform admin"},
    "groups list": {"": "platform admin"},
    "limits lower": {"": "admin"},
    "limits set": {"": "platform admin"},
    "member revoke": {"": "admin", "with --everywhere": "platform admin"},
    "member set": {"": "admin"},
    "memory adopt": {"": "admin"},
    "memory backend activate": {"": "admin"},
    "memory backend create": {"": "admin"},
    "memory backend delete": {"": "admin"},
    "memory backend provision": {"": "admin"},
    "memory backend update": {"": "admin"},
    "memory backend verify": {"": "admin"},
    "memory clear": {"": "editor"},
    "memory forget": {"": "admin"},
    "memory history-policy": {"": "operator", "to change it": "admin"},
    "memory index create": {"": "admin"},
    "memory index delete": {"": "admin"},
    "memory index empty": {"": "admin"},
    "models create": {"": "admin"},
    "models delete": {"": "admin"},
    "models disable": {"": "admin"},
    "models enable": {"": "admin"},
    "retention": {"": "operator", "to choose it": "admin"},
    "run": {"": "operator", "with --file": "editor"},
    "schedule create": {"": "editor"},
    "schedule delete": {"": "editor"},
    "schedule pause": {"": "editor"},
    "schedule resume": {"": "editor"},
    "schedule update": {"": "editor"},
    "secret delete": {"": "admin"},
    "secret list": {"": "admin"},
    "secret put": {"": "admin"},
    "tokens create": {"": "admin"},
    "tokens list": {"": "admin"},
    "tokens revoke": {"": "admin"},
    "tool source accept": {"": "admin"},
    "tool source create": {"": "admin"},
    "tool source delete": {"": "admin"},
    "tool source update": {"": "admin"},
    "tool test": {"": "editor"},
    "webhooks create": {"": "admin"},
    "webhooks delete": {"": "admin"},
    "webhooks deliveries": {"": "editor"},
    "webhooks list": {"": "editor"},
    "webhooks retry": {"": "editor"},
    "webhooks rotate": {"": "admin"},
    "webhooks show": {"": "editor"},
    "webhooks update": {"": "admin"},
}
"""The role that is needed, by command and by when it is; empty: always. Others need the role operator."""


def roles_of(command: str) -> Mapping[str, str]:
    """The role that a command needs, by when it does; empty where anybody may use it.

    Examples: {"": "admin"} of `secret put`; {"": "operator", "to choose it": "admin"} of `retention`.
    """
    return {} if command in _ANYBODY else _ROLES.get(command, {"": "operator"})


def role_line(command: str) -> str:
    """What the help of a command says of roles; empty where anybody may use it."""
    roles = roles_of(command)
    if not roles:
        return ""
    return f"Needs the role {', '.join(f'{when} {role}'.strip() for when, role in roles.items())}."
