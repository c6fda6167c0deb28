"""Commands about the end of executions' data: delete, retention."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.run import IdArgument
from coxswain.client.cli.session import JsonOption, confirm, session_of
from coxswain.client.cli.spans import span_from
from coxswain.client.later import duration_pb2, empty_pb2, execution_pb2

_HOUR = 3600


def delete(
    context: typer.Context,
    id: IdArgument,  # noqa: A002 - what people see
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete an execution that has ended, with its results and events.

    Example: `coxswain delete 01a20694-1f86-7c54-8594-1ba930202397 --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"execution {id} with its results and events", "delete", yes=yes)
    with session.client() as client:
        response = client.executions.DeleteExecution(execution_pb2.DeleteExecutionRequest(id=id))
    if session.json:
        return session.print_json(response)
    session.show("deleted" if response.deleted else "there was nothing to delete")
    return None


def retention(
    context: typer.Context,
    age: Annotated[str, typer.Argument(help="Hours or days, for example 12h or 30d; forever; default.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show for how long executions of your group are kept after their end, or choose it (admins).

    Examples:

        coxswain retention

        coxswain retention 30d
    """
    session = session_of(context, as_json)
    chosen = _choice(age) if age else None
    if chosen is not None and chosen.WhichOneof("choice") != "keep_forever":
        confirm(session, f"executions that ended longer ago than {age}", "delete", yes=yes)
    with session.client() as client:
        if chosen is None:
            counts = client.executions.GetExecutionRetention(execution_pb2.GetExecutionRetentionRequest()).retention
        else:
            counts = client.executions.SetExecutionRetention(chosen).retention
    if session.json:
        return session.print_json(counts)
    session.show(_words(counts))
    return None


def _choice(age: str) -> execution_pb2.SetExecutionRetentionRequest:
    if age == "forever":
        return execution_pb2.SetExecutionRetentionRequest(keep_forever=empty_pb2.Empty())
    if age == "default":
        return execution_pb2.SetExecutionRetentionRequest(use_default=empty_pb2.Empty())
    kept = duration_pb2.Duration()
    kept.FromTimedelta(span_from(age, "AGE", ", or forever, or default"))
    return execution_pb2.SetExecutionRetentionRequest(keep_for=kept)


def _words(counts: execution_pb2.ExecutionRetention) -> str:
    whose = "your group's choice" if counts.chosen else "the default"
    if not counts.HasField("keep_for"):
        return f"for ever ({whose})"
    hours = counts.keep_for.seconds / _HOUR
    span = f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"
    return f"{span} after their end ({whose})"
