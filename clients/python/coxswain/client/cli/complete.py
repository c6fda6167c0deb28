"""Names that a shell completes: asked of the server within a second, and in silence whatever fails.

What this module needs for that it imports when it is asked: the command line starts without.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import typer

from coxswain.client.cli.global_options import GlobalOptions

_SECONDS = 1.0
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
# Shells evaluate what they complete: a name of anything else is typed by hand.
_HARMLESS = re.compile(r"[\w./:@+=,-]+")
# Subjects have a bar between issuer and subject; bash takes it as part of a word behind a backslash.
_WITH_BARS = re.compile(r"[\w./:@+=,|-]+")

RESOURCES = {
    "--backend": "memory backend",
    "--ceiling-of": "stored group",
    "--crew": "crew",
    "--execution": "execution",
    "--model": "model",
    "--resumed-from": "execution",
    "--schedule": "schedule",
    "--subject": "member",
    "agent": "agent",
    "backend": "memory backend",
    "crew": "crew",
    "crews diff crew": "",
    "execution": "execution",
    "id": "execution",
    "ids": "execution",
    "index": "memory index",
    "model": "model",
    "schedule": "schedule",
    "source": "tool source",
    "subject": "member",
    "answer id": "question",
    "approvals answer id": "question",
    "batch id": "batch",
    "groups id": "stored group",
    "limits group": "stored group",
    "memory index create index": "",
    "memory delete ids": "",
    "memory document document_id": "document",
    "models name": "model",
    "models create name": "",
    "secret name": "secret",
    "tokens name": "service token",
    "tokens create name": "",
    "tool tool": "tool",
    "tool --source": "tool source",
    "tool usage --tool": "tool",
    "webhooks id": "webhook",
}
"""What is completed, by the spelling of an option or the name of an argument, and before it the command, or commands
above it, where it means something else there. Empty: nothing."""


def resource_of(command: str, parameter: str) -> str:
    """What a parameter of a command names, as `names` calls it; empty for what has no names that the server knows."""
    words = command.split()
    paths = [" ".join([*words[:count], parameter]) for count in range(len(words), -1, -1)]
    return next((RESOURCES[path] for path in paths if path in RESOURCES), "")


def complete_group(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the caller's groups."""
    return complete_name(ctx, incomplete, "group")


def complete_context(incomplete: str) -> list[str]:
    """Names of contexts."""
    from coxswain.client.cli.contexts import load_contexts

    try:
        return _fitting(load_contexts().named, incomplete)
    except (OSError, ValueError):
        return []


def complete_name(ctx: typer.Context, incomplete: str, resource: str) -> list[str]:
    """Names of a resource that begin with what is typed."""
    try:
        from coxswain.client.cli.names import names_of
        from coxswain.client.cli.session import connection_from

        # While a line is completed no command runs, and no value of an option is checked.
        given = ctx.find_root().params
        options = GlobalOptions(**{field.name: given.get(field.name) for field in fields(GlobalOptions)})
        ca_file = Path(options.ca_file) if options.ca_file else None
        # A flag of the environment is text then.
        tls = None if options.tls is None else str(options.tls).lower() in _TRUE
        connection = connection_from(replace(options, tls=tls, ca_file=ca_file, timeout=_SECONDS))
        if resource == "group":
            # One that is not finished would be refused.
            connection = replace(connection, group="")
        return _fitting(names_of(connection, resource), incomplete)
    except Exception:  # noqa: BLE001 - a message would stand in the line that somebody types
        return []


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    in_bash = os.environ.get("_COXSWAIN_COMPLETE") == "complete_bash"
    allowed = _WITH_BARS if in_bash else _HARMLESS
    fitting = (name for name in names if name.startswith(incomplete) and allowed.fullmatch(name))
    return sorted(name.replace("|", "\\|") for name in fitting)
