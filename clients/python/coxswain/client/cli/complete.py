"""Names that a shell completes: asked of the server within a second, and in silence whatever fails.

What this module needs for that it imports when it is asked: the command line starts without.
"""

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import typer

from coxswain.client.cli.global_options import GlobalOptions

_SECONDS = 1.0
# Shells evaluate what they complete: a name of anything else is typed by hand.
_HARMLESS = re.compile(r"[\w./:@+=,-]+")


def complete_crew(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of stored crews."""
    return _ask(ctx, incomplete, "crew")


def complete_agent(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of crews that are published as agents."""
    return _ask(ctx, incomplete, "agent")


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models."""
    return _ask(ctx, incomplete, "model")


def complete_schedule(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of schedules."""
    return _ask(ctx, incomplete, "schedule")


def complete_webhook(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of webhooks."""
    return _ask(ctx, incomplete, "webhook")


def complete_execution(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest executions."""
    return _ask(ctx, incomplete, "execution")


def complete_context(incomplete: str) -> list[str]:
    """Names of contexts."""
    from coxswain.client.cli.contexts import load_contexts

    try:
        return _fitting(load_contexts().named, incomplete)
    except (OSError, ValueError):
        return []


def _ask(ctx: typer.Context, incomplete: str, resource: str) -> list[str]:
    try:
        from coxswain.client.cli.names import names_of
        from coxswain.client.cli.session import session_from

        # While a line is completed no command runs, and no value of an option is checked.
        given = ctx.find_root().params
        options = GlobalOptions(**{field.name: given.get(field.name) for field in fields(GlobalOptions)})
        ca_file = Path(options.ca_file) if options.ca_file else None
        with session_from(replace(options, ca_file=ca_file, timeout=_SECONDS)).client() as client:
            return _fitting(names_of(client, resource), incomplete)
    except Exception:  # noqa: BLE001 - a message would stand in the line that somebody types
        return []


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name))
