"""Names that a shell completes: asked of the server within a second, and in silence whatever fails.

What this module needs for that it imports when it is asked: the command line starts without.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coxswain.client.cli.global_options import GlobalOptions

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_SECONDS = 1.0
_MOST = 200
# Shells evaluate what they complete: a name of anything else is typed by hand.
_HARMLESS = re.compile(r"[\w./:@+=,-]+")


def complete_crew(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of stored crews."""

    def ask(client: "Client") -> Iterable[str]:
        from coxswain.orchestrator.v1.crew_pb2 import ListCrewsRequest

        return [crew.spec.name for crew in client.crews.ListCrews(ListCrewsRequest(page_size=_MOST)).crews]

    return _ask(ctx, incomplete, ask)


def complete_agent(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of crews that are published as agents."""

    def ask(client: "Client") -> Iterable[str]:
        from coxswain.orchestrator.v1.a2a_pb2 import ListPublicationsRequest

        found = client.crews.ListPublications(ListPublicationsRequest(page_size=_MOST)).publications
        return [publication.crew_name for publication in found]

    return _ask(ctx, incomplete, ask)


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models."""

    def ask(client: "Client") -> Iterable[str]:
        from coxswain.models.v1.model_pb2 import ListModelsRequest

        return [model.name for model in client.models.ListModels(ListModelsRequest(page_size=_MOST)).models]

    return _ask(ctx, incomplete, ask)


def complete_schedule(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of schedules."""

    def ask(client: "Client") -> Iterable[str]:
        from coxswain.orchestrator.v1.schedule_pb2 import ListSchedulesRequest

        found = client.schedules.ListSchedules(ListSchedulesRequest(page_size=_MOST)).schedules
        return [schedule.name for schedule in found]

    return _ask(ctx, incomplete, ask)


def complete_webhook(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of webhooks."""

    def ask(client: "Client") -> Iterable[str]:
        from coxswain.orchestrator.v1.webhook_pb2 import ListWebhooksRequest

        return [webhook.id for webhook in client.webhooks.ListWebhooks(ListWebhooksRequest(page_size=_MOST)).webhooks]

    return _ask(ctx, incomplete, ask)


def complete_execution(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the newest executions."""

    def ask(client: "Client") -> Iterable[str]:
        from coxswain.orchestrator.v1.execution_pb2 import ListExecutionsRequest

        found = client.executions.ListExecutions(ListExecutionsRequest(page_size=20)).executions
        return [execution.id for execution in found]

    return _ask(ctx, incomplete, ask)


def complete_context(incomplete: str) -> list[str]:
    """Names of contexts."""
    from coxswain.client.cli.contexts import load_contexts

    try:
        return _fitting(load_contexts().named, incomplete)
    except (OSError, ValueError):
        return []


def _ask(ctx: typer.Context, incomplete: str, ask: Callable[["Client"], Iterable[str]]) -> list[str]:
    try:
        from coxswain.client.cli.session import session_from

        # While a line is completed no command runs, and no value of an option is checked.
        given = ctx.find_root().params
        options = GlobalOptions(**{field.name: given.get(field.name) for field in fields(GlobalOptions)})
        ca_file = Path(options.ca_file) if options.ca_file else None
        with session_from(replace(options, ca_file=ca_file, timeout=_SECONDS)).client() as client:
            return _fitting(ask(client), incomplete)
    except Exception:  # noqa: BLE001 - a message would stand in the line that somebody types
        return []


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name))
